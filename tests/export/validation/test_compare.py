"""The measure that bundles are held to, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from paligemma_onnx.export.validation.compare import EXACT, ROUNDED, difference, divergence

NAN, INF = np.nan, np.inf
THEIRS = [[4.0, -8.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("ours", "theirs", "worst", "relative"),
    [
        (THEIRS, THEIRS, 0.0, 0.0),
        ([[4.0, -8.0], [0.5, 2.25]], THEIRS, 0.25, 0.25 / 8),
        ([[4.0, -8.0], [0.5, NAN]], THEIRS, INF, INF),
        ([[4.0, INF], [0.5, 2.0]], THEIRS, INF, INF),
        (THEIRS, [[4.0, -8.0], [0.5, NAN]], INF, INF),
        ([[4.0, -INF], [0.5, 2.0]], [[4.0, INF], [0.5, 2.0]], INF, INF),
        # Broken on both sides alike: the rest is measured against the largest value that is a number.
        ([[4.0, NAN], [INF, 2.5]], [[4.0, NAN], [INF, 2.0]], 0.5, 0.5 / 4),
        ([[NAN, NAN]], [[NAN, NAN]], 0.0, 0.0),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0, 0.0),
        ([[0.0, 1e-9]], [[0.0, 0.0]], 1e-9, INF),  # a share of nothing
    ],
)
def test_difference(
    ours: list[list[float]], theirs: list[list[float]], worst: float, relative: float
) -> None:
    found = difference("prefill", "logits", np.float32(ours), np.float32(theirs), EXACT)
    assert found.worst == pytest.approx(worst)
    assert found.relative == pytest.approx(relative)
    assert found.passed == (relative <= 1e-4)


def test_where_it_is_worst() -> None:
    ours = np.zeros((2, 3, 4), np.float32)
    ours[1, 2, 0] = 5e-3
    found = difference(
        "step.3", "1.key", ours, np.ones_like(ours) - 1 + np.eye(3, 4, dtype=np.float32), EXACT
    )
    assert found.where == (0, 0, 0)  # off by one, where the diagonal is
    found = difference("step.3", "1.key", ours, np.zeros_like(ours), EXACT)
    assert found.where == (1, 2, 0)


def test_rounded_values_pass_and_unrelated_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(4, 500)).astype(np.float32)
    rounded = theirs + rng.normal(scale=0.3, size=theirs.shape).astype(np.float32)
    found = difference("vision", "image_features", rounded, theirs, ROUNDED)
    assert found.rms == pytest.approx(np.std(rounded - theirs) / np.std(theirs), rel=1e-2)
    assert found.passed
    unrelated = rng.normal(size=(4, 500)).astype(np.float32)
    assert not difference("vision", "image_features", unrelated, theirs, ROUNDED).passed
    assert not difference("vision", "image_features", np.full_like(theirs, NAN), theirs, ROUNDED).passed


def test_an_outlying_channel_counts_as_one_channel() -> None:
    """One channel of fifty is 64 times as large, and wrong; then all the others are wrong."""
    rng = np.random.default_rng(0)
    theirs, unrelated = rng.normal(size=(2, 3, 20, 50)).astype(np.float32)
    theirs[..., 7] *= 64
    wrong = theirs.copy()
    wrong[..., 7] = 64 * unrelated[..., 7]
    assert not difference("prefill", "0.value", wrong, theirs, ROUNDED).passed
    sizes = np.where(np.arange(50) == 7, 64.0, 1.0)
    found = difference("prefill", "0.value", wrong, theirs, ROUNDED, sizes)
    assert found.passed
    assert found.rms == pytest.approx(np.sqrt(2 / 50), rel=0.2)
    unrelated[..., 7] = theirs[..., 7]
    assert difference("prefill", "0.value", unrelated, theirs, ROUNDED).passed
    assert not difference("prefill", "0.value", unrelated, theirs, ROUNDED, sizes).passed


def test_divergence_is_scipys() -> None:
    ours, theirs = np.random.default_rng(1).normal(size=(2, 50)).astype(np.float32)
    expected = scipy.stats.entropy(scipy.special.softmax(theirs), scipy.special.softmax(ours))
    assert divergence(ours, theirs) == pytest.approx(expected, rel=1e-5)
    assert divergence(ours, ours + 3) == pytest.approx(0, abs=1e-6)

"""The measures that bundles are judged by, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from paligemma_onnx.export.validation.measures import EXACT, ROUNDED, kl_divergence, measure_difference

NAN, INF = np.nan, np.inf
EXPECTED = [[4.0, -8.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("actual", "expected", "worst", "relative"),
    [
        (EXPECTED, EXPECTED, 0.0, 0.0),
        ([[4.0, -8.0], [0.5, 2.25]], EXPECTED, 0.25, 0.25 / 8),
        ([[4.0, -8.0], [0.5, NAN]], EXPECTED, INF, INF),
        ([[4.0, INF], [0.5, 2.0]], EXPECTED, INF, INF),
        (EXPECTED, [[4.0, -8.0], [0.5, NAN]], INF, INF),
        ([[4.0, -INF], [0.5, 2.0]], [[4.0, INF], [0.5, 2.0]], INF, INF),
        # Not finite in the same way on both sides: the rest is divided by the largest finite value.
        ([[4.0, NAN], [INF, 2.5]], [[4.0, NAN], [INF, 2.0]], 0.5, 0.5 / 4),
        ([[NAN, NAN]], [[NAN, NAN]], 0.0, 0.0),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0, 0.0),
        ([[0.0, 1e-9]], [[0.0, 0.0]], 1e-9, INF),  # divided by zero
    ],
)
def test_difference(
    actual: list[list[float]], expected: list[list[float]], worst: float, relative: float
) -> None:
    measured = measure_difference("prefill", "logits", np.float32(actual), np.float32(expected), EXACT)
    assert measured.worst == pytest.approx(worst)
    assert measured.relative == pytest.approx(relative)
    assert measured.passed == (relative <= 1e-4)


def test_where_it_is_worst() -> None:
    actual = np.zeros((2, 3, 4), np.float32)
    actual[1, 2, 0] = 5e-3
    measured = measure_difference(
        "step.3", "1.key", actual, np.ones_like(actual) - 1 + np.eye(3, 4, dtype=np.float32), EXACT
    )
    assert measured.where == (0, 0, 0)  # the diagonal, where the error is 1
    measured = measure_difference("step.3", "1.key", actual, np.zeros_like(actual), EXACT)
    assert measured.where == (1, 2, 0)


def test_rounded_values_pass_and_unrelated_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(4, 500)).astype(np.float32)
    rounded = expected + rng.normal(scale=0.3, size=expected.shape).astype(np.float32)
    measured = measure_difference("vision", "image_features", rounded, expected, ROUNDED)
    assert measured.rms == pytest.approx(np.std(rounded - expected) / np.std(expected), rel=1e-2)
    assert measured.passed
    unrelated = rng.normal(size=(4, 500)).astype(np.float32)
    assert not measure_difference("vision", "image_features", unrelated, expected, ROUNDED).passed
    assert not measure_difference(
        "vision", "image_features", np.full_like(expected, NAN), expected, ROUNDED
    ).passed


def test_an_outlying_channel_counts_as_one_channel() -> None:
    """One of 50 channels is 64 times as large as the others and wrong; then all the others are wrong."""
    rng = np.random.default_rng(0)
    expected, unrelated = rng.normal(size=(2, 3, 20, 50)).astype(np.float32)
    expected[..., 7] *= 64
    wrong = expected.copy()
    wrong[..., 7] = 64 * unrelated[..., 7]
    assert not measure_difference("prefill", "0.value", wrong, expected, ROUNDED).passed
    sizes = np.where(np.arange(50) == 7, 64.0, 1.0)
    measured = measure_difference("prefill", "0.value", wrong, expected, ROUNDED, sizes)
    assert measured.passed
    assert measured.rms == pytest.approx(np.sqrt(2 / 50), rel=0.2)
    unrelated[..., 7] = expected[..., 7]
    assert measure_difference("prefill", "0.value", unrelated, expected, ROUNDED).passed
    assert not measure_difference("prefill", "0.value", unrelated, expected, ROUNDED, sizes).passed


def test_divergence_is_scipys() -> None:
    actual, expected = np.random.default_rng(1).normal(size=(2, 50)).astype(np.float32)
    nats = scipy.stats.entropy(scipy.special.softmax(expected), scipy.special.softmax(actual))
    assert kl_divergence(actual, expected) == pytest.approx(nats, rel=1e-5)
    assert kl_divergence(actual, actual + 3) == pytest.approx(0, abs=1e-6)

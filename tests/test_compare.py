"""The measure that bundles are held to, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from paligemma_onnx.export.compare import difference

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
    found = difference("prefill", "logits", np.float32(ours), np.float32(theirs), 1e-4)
    assert found.worst == pytest.approx(worst)
    assert found.relative == pytest.approx(relative)
    assert found.passed == (relative <= 1e-4)


def test_where_it_is_worst() -> None:
    ours = np.zeros((2, 3, 4), np.float32)
    ours[1, 2, 0] = 5e-3
    found = difference("step.3", "1.key", ours, np.ones_like(ours) - 1 + np.eye(3, 4, dtype=np.float32), 1e-4)
    assert found.where == (0, 0, 0)  # off by one, where the diagonal is
    found = difference("step.3", "1.key", ours, np.zeros_like(ours), 1e-4)
    assert found.where == (1, 2, 0)

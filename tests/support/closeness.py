"""Relative error of two arrays, and an assertion that reports the measured error when it fails."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike


def relative_error(actual: ArrayLike | torch.Tensor, expected: ArrayLike | torch.Tensor) -> float:
    """Return the largest absolute error divided by the largest absolute value of `expected`.

    The result is infinity if any error is NaN or infinite.
    """
    actual, expected = _float64(actual), _float64(expected)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    error = np.abs(actual - expected)
    if not np.isfinite(error).all():
        return float("inf")
    return float(error.max() / np.abs(expected).max())


def assert_close(
    name: str, actual: ArrayLike | torch.Tensor, expected: ArrayLike | torch.Tensor, bound: float
) -> None:
    """Assert that `relative_error` is at most `bound`; `pytest -s` shows the measured error."""
    error = relative_error(actual, expected)
    print(f"{name}: error {error:.1e} of the largest value, allowed {bound:.0e}")
    assert error <= bound, f"{name}: error {error:.1e} of the largest value, allowed {bound:.0e}"


def _float64(values: ArrayLike | torch.Tensor) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64)

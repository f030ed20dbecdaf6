"""How far two arrays are apart, said in every assertion so that a failure shows by how much."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike


def relative_error(ours: ArrayLike | torch.Tensor, theirs: ArrayLike | torch.Tensor) -> float:
    """Largest absolute error as a share of the largest value of `theirs`; infinite where not a number."""
    mine, right = _float64(ours), _float64(theirs)
    assert mine.shape == right.shape, f"shapes {mine.shape} and {right.shape}"
    error = np.abs(mine - right)
    if not np.isfinite(error).all():
        return float("inf")
    return float(error.max() / np.abs(right).max())


def assert_close(
    what: str, ours: ArrayLike | torch.Tensor, theirs: ArrayLike | torch.Tensor, bound: float
) -> None:
    """Assert `relative_error` is within the bound; the measured error is printed for `pytest -s`."""
    error = relative_error(ours, theirs)
    print(f"{what}: error {error:.1e} of the largest value, allowed {bound:.0e}")
    assert error <= bound, f"{what}: off by {error:.1e} of the largest value, allowed {bound:.0e}"


def _float64(values: ArrayLike | torch.Tensor) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64)

"""Error limits of each precision, and the measures that are compared with the limits.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


@dataclass(frozen=True)
class Limits:
    """Largest errors that a tensor may have, as shares of the reference's values."""

    worst: float  # largest absolute error, divided by the reference's largest absolute value
    rms: float  # RMS of the errors, divided by the RMS of the reference's values; see measure_difference()


# float32: reference and bundle compute the same arithmetic in a different order. Sums of up to 36,864
# products over up to 100 layers leave errors of 1e-6 to 1e-5 of the largest value. The error that a wrong
# constant, a missing mask slot or a single rounding to bfloat16 (4e-3) causes is far above 1e-4.
EXACT = Limits(1e-4, 1e-4)
# Precisions with fewer bits than half precision: the effect of rounding on an answer depends on the model.
# The report shows this effect (agreement of tokens, divergence, first different token), but does not judge
# it. ROUNDED only separates a bundle with wrong graphs from a bundle with rounded weights: unrelated values
# of the same size are sqrt(2) apart. In addition, compare_weights.py compares every stored number with the
# checkpoint.
ROUNDED = Limits(math.inf, 0.7)
# Quantised graphs against torch on the stored weights: only activations are rounded, to 8 bits. In a decoder
# of random weights with 26 layers, rounding of 4-bit weights reaches 0.58, and rounding to 8 bits 0.05.
ROUNDED_ACTIVATIONS = Limits(math.inf, 0.2)
# Half precision: each product rounds to 8 (bfloat16) or 11 bits (float16), and errors add up over the layers.
# Measured root mean squares: 0.7 % (bfloat16) and 0.07 % (float16) over 4 layers, 1.5 % (bfloat16) over 18
# wide layers. A precision that is not listed here has the limits ROUNDED.
LIMITS = {"fp32": EXACT, "bf16": Limits(0.1, 0.05), "fp16": Limits(0.02, 0.01)}
TOP = 10  # number of most likely tokens of each side that are compared


@dataclass(frozen=True)
class Difference:
    """Error of one output tensor of the bundle."""

    stage: str  # vision, mask_decoder, prefill, step.0, ...
    name: str  # image_features, masks, logits, 3.key, ...
    worst: float  # largest absolute error
    relative: float  # largest absolute error, divided by the reference's largest absolute value
    where: tuple[int, ...]  # index of the largest error in the tensor
    rms: float  # RMS of the errors, divided by the RMS of the reference's values; see measure_difference()
    limits: Limits

    @property
    def passed(self) -> bool:
        """Return whether `relative` and `rms` are within their limits; NaN is not within a limit."""
        return self.relative <= self.limits.worst and self.rms <= self.limits.rms


@dataclass(frozen=True)
class TokenAgreement:
    """Comparison of one row's next-token logits at one step."""

    stage: str  # prefill, step.0, ...
    row: int  # index in the batch
    top1: bool  # both sides have the same most likely token
    near_tie: bool  # see is_near_tie()
    top10: int  # number of tokens that are among the TOP most likely tokens of both sides
    divergence: float  # see kl_divergence()

    @property
    def passed(self) -> bool:
        """Return whether the top-1 tokens are equal, or a near tie with at least TOP - 1 shared tokens."""
        return self.top1 or (self.near_tie and self.top10 >= TOP - 1)


@dataclass(frozen=True)
class GreedyRun:
    """Greedy token ids of one row when each side continues from its own choices."""

    row: int  # index in the batch
    reference: tuple[int, ...]
    bundle: tuple[int, ...]
    # First step at which the ids differ: 0 is the id that prefill decides. None: the ids never differ.
    diverged_at: int | None
    near_tie: bool  # see is_near_tie(), at the step `diverged_at`; True if the ids never differ
    # Reference logit of the reference's id minus reference logit of the bundle's id, at step `diverged_at`.
    margin: float | None

    @property
    def passed(self) -> bool:
        """Return whether the ids are equal, or first differ at a near tie."""
        return self.diverged_at is None or self.near_tie


@dataclass(frozen=True)
class Comparison:
    """All measurements of one bundle."""

    exact: bool  # the bundle is float32, so its tokens have to agree, too
    differences: tuple[Difference, ...]
    agreements: tuple[TokenAgreement, ...]
    free_runs: tuple[GreedyRun, ...]

    @property
    def passed(self) -> bool:
        """Return whether all errors are within their limits; if `exact`, all tokens must agree, too."""
        tensors = all(difference.passed for difference in self.differences)
        tokens = [part.passed for group in (self.agreements, self.free_runs) for part in group]
        return tensors and (all(tokens) or not self.exact)


def measure_difference(
    stage: str,
    name: str,
    actual: NDArray[Any],
    expected: NDArray[Any],
    limits: Limits,
    channel_sizes: NDArray[np.float64] | None = None,
) -> Difference:
    """Measure the error of one tensor.

    A value that is NaN or infinite in only one of the tensors is an infinite error. Two NaN, or two
    infinities of the same sign, count as equal: a checkpoint whose weights are not finite is exported with a
    warning, and its bundle has to reproduce the values that are not finite.

    Args:
        stage: the call that returned the tensor.
        name: name of the tensor among the outputs of the call.
        actual: the bundle's tensor, of any shape and dtype.
        expected: the reference's tensor, of the same shape.
        limits: the largest errors allowed.
        channel_sizes: root mean square of each channel (`channel_rms`), of a shape that broadcasts to the
            shape of `expected`. `rms` is computed after errors and values are divided by the size of their
            channel, or by the median size if the median is larger. Without this division, a channel 64 times
            as large as the others would dominate the measure. None: `rms` is computed without division.
    """
    with np.errstate(invalid="ignore"):
        error = np.abs(actual.astype(np.float64) - expected)
    equal = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    error = np.where(equal, 0.0, np.where(np.isnan(error), np.inf, error))
    where = np.unravel_index(int(error.argmax()), error.shape)
    worst = float(error[where])
    relative = _share(worst, float(np.abs(expected).max(where=np.isfinite(expected), initial=0.0)))
    values = _finite(expected)
    if channel_sizes is not None:
        sizes = np.maximum(channel_sizes, np.median(channel_sizes))
        scales = np.divide(1.0, sizes, out=np.ones_like(sizes), where=sizes > 0)
        values, error = values * scales, error * scales
    value_rms, error_rms = (math.sqrt(np.mean(np.square(array))) for array in (values, error))
    index = tuple(int(axis) for axis in where)
    return Difference(stage, name, worst, relative, index, _share(error_rms, value_rms), limits)


def channel_rms(values: NDArray[Any], positions: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the root mean square of each channel, taken over the axes `positions`.

    The result is float64. It has the axes of `values`, with length 1 along `positions`.
    """
    size: NDArray[np.float64] = np.sqrt(np.mean(np.square(_finite(values)), axis=positions, keepdims=True))
    return size


def kl_divergence(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the Kullback-Leibler divergence KL(expected || actual) of two logit vectors float[V], in nats.

    Source: Kullback and Leibler 1951, equation 2.4. Rounding can make the result slightly negative.
    """
    log_actual, log_expected = (
        torch.tensor(logits, dtype=torch.float64).log_softmax(0) for logits in (actual, expected)
    )
    return F.kl_div(log_actual, log_expected, reduction="sum", log_target=True).item()


def is_near_tie(logits: NDArray[Any], actual: int, expected: int, limits: Limits) -> bool:
    """Return whether an allowed error can make `actual` the top-1 token instead of `expected`.

    Each of the two logits may be wrong by `limits.worst` times the largest absolute logit. The two logits can
    therefore change their order if they differ by up to twice this error.

    Args:
        logits: the reference's logits, float32[V].
        actual: the bundle's id.
        expected: the reference's id.
        limits: the largest errors allowed.
    """
    return bool(logits[expected] - logits[actual] <= 2 * limits.worst * np.abs(logits).max())


def count_shared_top(actual: NDArray[Any], expected: NDArray[Any]) -> int:
    """Return the number of ids that are among the TOP largest logits of both vectors, float32[V]."""
    actual_top, expected_top = (np.argpartition(logits, -TOP)[-TOP:] for logits in (actual, expected))
    return len(np.intersect1d(actual_top, expected_top))


def _share(error: float, size: float) -> float:
    if size > 0:
        return error / size
    return 0.0 if error == 0 else math.inf


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values as float64, with 0 in place of NaN and infinity."""
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

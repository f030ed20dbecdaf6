"""A bundle held against a record: every graph, every layer's cache, every step, then free generation.

Legend: B batch, K key-value heads, P slots, H head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import Array
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

from .reference_outputs import ReferenceOutputs, ValidationInputs


@dataclass(frozen=True)
class Limits:
    """What errors a precision may have, as shares of the reference's values."""

    worst: float  # largest error, of the largest value
    rms: float  # root mean square of the errors, of that of the values; outlying channels scaled down


# float32: both sides compute the same arithmetic in another order. Sums of up to 36,864 products over up to
# 100 layers leave errors of 1e-6 to 1e-5 of the largest value; a wrong constant, a missing mask slot or a
# bfloat16 rounding somewhere (4e-3) stands far above 1e-4.
#
# Fewer bits: what rounding does to an answer is the model's affair, and is reported, not judged: agreement
# of words, divergence, the step of the first other word. The limits tell a bundle of the wrong graph from one
# that is only rounded: unrelated values of the same size are sqrt(2) apart. Every stored number is held
# against the checkpoint besides (stored_weights.py).
#
# Half precision: each product rounds to 8 (bfloat16) or 11 bits (float16), and errors add up over the layers:
# measured are root mean squares of 0.7 % and 0.07 % over 4 layers, and 1.5 % of bfloat16 over 18 wide ones.
EXACT = Limits(1e-4, 1e-4)
ROUNDED = Limits(math.inf, 0.7)
LIMITS = {"fp32": EXACT, "bf16": Limits(0.1, 0.05), "fp16": Limits(0.02, 0.01)}  # others: ROUNDED
TOP = 10  # words compared as a set


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from the reference's."""

    stage: str  # vision, prefill, step.0, ...
    name: str  # image_features, logits, 3.key, ...
    worst: float  # largest absolute error
    relative: float  # the same as a share of the reference's largest value
    where: tuple[int, ...]  # its index
    rms: float  # root mean square of the errors, as a share of the reference's; see difference()
    limits: Limits

    @property
    def passed(self) -> bool:
        """Whether the error is within its limits; NaN is not."""
        return self.relative <= self.limits.worst and self.rms <= self.limits.rms


@dataclass(frozen=True)
class TokenAgreement:
    """How one row's words compare at one step."""

    stage: str
    row: int
    top1: bool
    near_tie: bool  # the reference's scores of the two words are closer than the error allowed
    top10: int  # words both sides have among their first ten
    divergence: float  # Kullback-Leibler, of the bundle's distribution from the reference's, in nats

    @property
    def passed(self) -> bool:
        """Same first word, or a near tie with nearly the same ten."""
        return self.top1 or (self.near_tie and self.top10 >= TOP - 1)


@dataclass(frozen=True)
class GreedyRun:
    """Greedy ids of one row when each side follows its own choices."""

    row: int
    reference: tuple[int, ...]
    bundle: tuple[int, ...]
    parted: int | None  # the first step at which they differ
    near_tie: bool
    margin: float | None  # there, the reference's logit of its own id less that of the bundle's

    @property
    def passed(self) -> bool:
        """Equal, or parted at a near tie."""
        return self.parted is None or self.near_tie


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared."""

    exact: bool  # whether words must agree, too
    differences: tuple[Difference, ...]
    agreements: tuple[TokenAgreement, ...]
    free_runs: tuple[GreedyRun, ...]

    @property
    def passed(self) -> bool:
        """Whether every part is within its limits."""
        values = all(difference.passed for difference in self.differences)
        words = [part.passed for group in (self.agreements, self.free_runs) for part in group]
        return values and (all(words) or not self.exact)


def compare(
    runner: OnnxModelRunner,
    questions: ValidationInputs,
    kept: ReferenceOutputs,
    progress: Callable[[str], object],
) -> Comparison:
    """Ask the bundle what the reference was asked, with the reference's image features and ids as inputs.

    Feeding each graph the reference's inputs keeps errors where they arise: a wrong vision graph does not
    make the prefill look wrong.
    """
    exact = runner.manifest.recipe.is_float32
    limits = LIMITS.get(runner.manifest.recipe.precision, ROUNDED)
    never = Cancellation()
    differences: list[Difference] = []
    agreements: list[TokenAgreement] = []

    progress("bundle: vision")
    reference = kept["vision"]
    features = runner.encode_image(questions.pixel_values, never).numpy()
    differences.append(
        difference("vision", "image_features", features, reference, limits, _sizes(reference, (0, 1)))
    )

    if runner.manifest.graphs.mask_decoder is not None:
        progress("bundle: mask decoder")
        maps = runner.decode_masks(kept["mask.codes"], never)
        differences.append(difference("mask_decoder", "masks", maps, kept["mask.maps"], EXACT))

    progress("bundle: prefill")
    flat = reference.reshape(-1, reference.shape[2])  # [M * I, D]
    shared = np.broadcast_to(flat, (len(questions.prompts), *flat.shape))
    lengths = questions.text_lengths
    room = len(flat) + int(lengths.max()) + questions.steps
    logits, cache = started = runner.prefill(questions.input_ids, shared, lengths, room, never)
    differences.append(difference("prefill", "logits", logits, kept["prefill.logits"], limits))
    channels = dict[str, NDArray[np.float64]]()  # sizes float64[1, K, 1, H] of each layer's keys and values
    agreements += _agreements("prefill", logits, kept["prefill.logits"], questions, limits)
    for name, value in _named(cache):
        theirs = kept[f"prefill.{name}"]
        ours = value.numpy()[:, :, : theirs.shape[2]]  # behind are free slots
        real = np.arange(ours.shape[2]) < cache.lengths[:, None]  # padding slots hold nothing
        keep = real[:, None, :, None]
        ours, theirs = np.where(keep, ours, 0), np.where(keep, theirs, 0)
        channels[name] = _sizes(theirs, (0, 2))
        differences.append(difference("prefill", name, ours, theirs, limits, channels[name]))

    for step in range(questions.steps):
        progress(f"bundle: step {step + 1} of {questions.steps}")
        stage, slots = f"step.{step}", cache.lengths
        logits, cache = runner.decode(kept[f"{stage}.ids"][:, None], cache, never)
        differences.append(difference(stage, "logits", logits, kept[f"{stage}.logits"], limits))
        agreements += _agreements(stage, logits, kept[f"{stage}.logits"], questions, limits)
        for name, value in _named(cache):
            written = value.numpy()[np.arange(len(slots)), :, slots]
            theirs, sizes = kept[f"{stage}.{name}"], channels[name][:, :, 0]
            differences.append(difference(stage, name, written, theirs, limits, sizes))

    # The same start once more. Where the steps above wrote into its slots, it writes over what they wrote
    # before it reads there.
    progress("bundle: free generation")
    free_runs = tuple(_free_runs(runner, started, questions, kept, limits))
    return Comparison(exact, tuple(differences), tuple(agreements), free_runs)


def difference(
    stage: str,
    name: str,
    ours: NDArray[Any],
    theirs: NDArray[Any],
    limits: Limits,
    sizes: NDArray[np.float64] | None = None,
) -> Difference:
    """Measure one tensor against the reference's; a number on one side only is infinitely wrong.

    Values that are NaN, or the same infinity, on both sides agree: a checkpoint with such weights is exported
    with a warning, and its bundle is as broken as it is.

    Args:
        stage: which call it is of.
        name: which of its outputs.
        ours: of any shape.
        theirs: of the same shape.
        limits: what it may be off by.
        sizes: of channels, as `theirs` or repeated along its axes. Root mean squares are then taken of values
            divided by the size of their channel, where that is above the median: a channel 64 times as large
            as the others would otherwise be all that is measured. None: as they are.
    """
    with np.errstate(invalid="ignore"):
        error = np.abs(ours.astype(np.float64) - theirs)
    agreed = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    error = np.where(agreed, 0.0, np.where(np.isnan(error), np.inf, error))
    where = np.unravel_index(int(error.argmax()), error.shape)
    worst, largest = float(error[where]), float(np.abs(theirs).max(where=np.isfinite(theirs), initial=0.0))
    relative = worst / largest if largest > 0 else (0.0 if worst == 0 else np.inf)
    values = _numbers(theirs)
    if sizes is not None:
        sizes = np.maximum(sizes, np.median(sizes))
        shares = np.divide(1.0, sizes, out=np.ones_like(sizes), where=sizes > 0)
        values, error = values * shares, error * shares
    size, missed = (math.sqrt(np.mean(np.square(array))) for array in (values, error))
    rms = missed / size if size > 0 else (0.0 if missed == 0 else np.inf)
    return Difference(stage, name, worst, relative, tuple(int(axis) for axis in where), rms, limits)


def _sizes(theirs: NDArray[Any], positions: tuple[int, ...]) -> NDArray[np.float64]:
    """Root mean square of each channel over all positions: those axes have length 1."""
    size: NDArray[np.float64] = np.sqrt(np.mean(np.square(_numbers(theirs)), axis=positions, keepdims=True))
    return size


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """As float64, 0 for NaN and infinity."""
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _agreements(
    stage: str, ours: NDArray[Any], theirs: NDArray[Any], questions: ValidationInputs, limits: Limits
) -> Iterator[TokenAgreement]:
    mine, right = questions.choose(ours), questions.choose(theirs)
    for row in range(len(ours)):
        shared = np.intersect1d(_top(ours[row]), _top(theirs[row]))
        same = bool(mine[row] == right[row])
        tie = _near_tie(theirs[row], mine[row], right[row], limits)
        yield TokenAgreement(stage, row, same, tie, len(shared), divergence(ours[row], theirs[row]))


def divergence(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """KL(theirs || ours) in nats of two float[V] of logits (Kullback and Leibler 1951, equation 2.4)."""
    mine, right = (torch.tensor(logits, dtype=torch.float64).log_softmax(0) for logits in (ours, theirs))
    return F.kl_div(mine, right, reduction="sum", log_target=True).item()


def _top(logits: NDArray[Any]) -> NDArray[np.int64]:
    return np.argpartition(logits, -TOP)[-TOP:]


def _near_tie(logits: NDArray[Any], mine: int, right: int, limits: Limits) -> bool:
    """Two words whose scores both may be off by the limit can change places within twice that."""
    return bool(logits[right] - logits[mine] <= 2 * limits.worst * np.abs(logits).max())


def _free_runs(
    runner: OnnxModelRunner,
    started: tuple[Array, Cache],
    questions: ValidationInputs,
    kept: ReferenceOutputs,
    limits: Limits,
) -> Iterator[GreedyRun]:
    never = Cancellation()
    logits, cache = started
    chosen = []
    for _ in range(questions.steps):
        chosen.append(questions.choose(logits))
        logits, cache = runner.decode(chosen[-1][:, None], cache, never)
    ours = np.array(chosen)  # [steps, B]
    theirs = np.array([kept[f"step.{step}.ids"] for step in range(questions.steps)])
    for row in range(ours.shape[1]):
        apart = np.flatnonzero(ours[:, row] != theirs[:, row])
        parted = int(apart[0]) if len(apart) else None
        tie, margin = True, None
        if parted is not None:
            stage = "prefill" if parted == 0 else f"step.{parted - 1}"
            scores, mine, right = kept[f"{stage}.logits"][row], ours[parted, row], theirs[parted, row]
            tie, margin = _near_tie(scores, mine, right, limits), float(scores[right] - scores[mine])
        yield GreedyRun(
            row, tuple(theirs[:, row].tolist()), tuple(ours[:, row].tolist()), parted, tie, margin
        )


def _named(cache: Cache) -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(cache.values):
        yield f"{index // 2}.{'key' if index % 2 == 0 else 'value'}", value

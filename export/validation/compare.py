"""Compare the outputs of a bundle with stored reference outputs.

The comparison covers each graph, the KV cache of each layer, each decode step, and free generation.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.kv_cache import Cache, split_heads
from paligemma_onnx.runtime.graphs.model_runner import Array, ModelRunner

from .measures import (
    EXACT,
    LIMITS,
    ROUNDED,
    Comparison,
    Difference,
    GreedyRun,
    Limits,
    TokenAgreement,
    channel_rms,
    count_shared_top,
    is_near_tie,
    kl_divergence,
    measure_difference,
)
from .reference_outputs import ReferenceOutputs, ValidationInputs


def compare(
    runner: ModelRunner,
    inputs: ValidationInputs,
    reference: ReferenceOutputs,
    progress: Callable[[str], object],
    limits: Limits | None = None,
) -> Comparison:
    """Run a bundle on the reference's inputs and measure its outputs.

    Each graph gets the reference's image features and token ids, not the outputs of the bundle's other
    graphs. An error therefore shows up only in the graph that causes it: a wrong vision graph does not make
    prefill look wrong.

    Args:
        runner: the bundle.
        inputs: the inputs that the reference was run on.
        reference: the stored outputs of the reference.
        progress: called with a line of text before each stage.
        limits: the largest errors allowed; None: those of the bundle's precision.
    """
    limits = limits or LIMITS.get(runner.manifest.precision.name, ROUNDED)
    never = Cancellation()
    differences: list[Difference] = []
    agreements: list[TokenAgreement] = []

    progress("bundle: vision")
    features = reference["vision"]  # [M, I, D]
    actual = np.asarray(runner.encode_image(inputs.pixel_values, never))
    sizes = channel_rms(features, (0, 1))
    differences.append(measure_difference("vision", "image_features", actual, features, limits, sizes))

    if runner.manifest.graphs.mask_decoder is not None:
        progress("bundle: mask decoder")
        masks = runner.decode_masks(reference["mask.codes"], never)
        # The mask decoder is float32 in every precision.
        differences.append(measure_difference("mask_decoder", "masks", masks, reference["mask.maps"], EXACT))

    progress("bundle: prefill")
    flat = features.reshape(-1, features.shape[2])  # [M * I, D]
    shared = np.broadcast_to(flat, (len(inputs.prompts), *flat.shape))
    lengths = inputs.text_lengths
    capacity = len(flat) + int(lengths.max()) + inputs.steps
    logits, cache = runner.prefill(inputs.input_ids, shared, lengths, capacity, never)
    if runner.manifest.cache.update == "grow":
        # Otherwise the weights of prefill would stay in memory while decode runs.
        logits, cache = logits.copy(), cache.copy()
    prefilled = logits, cache
    differences.append(measure_difference("prefill", "logits", logits, reference["prefill.logits"], limits))
    agreements += _token_agreements("prefill", logits, reference["prefill.logits"], inputs, limits)
    channel_sizes = dict[str, NDArray[np.float64]]()  # key: cache tensor; value: float64[1, K, 1, H]
    for name, value in _cache_tensors(cache):
        expected = reference[f"prefill.{name}"]
        # Later slots are not in use.
        actual = split_heads(value, runner.manifest.cache)[:, :, : expected.shape[2]]
        # Padding slots have no defined content, so they are not compared.
        used = (np.arange(actual.shape[2]) < cache.lengths[:, None])[:, None, :, None]
        actual, expected = np.where(used, actual, 0), np.where(used, expected, 0)
        channel_sizes[name] = channel_rms(expected, (0, 2))
        differences.append(measure_difference("prefill", name, actual, expected, limits, channel_sizes[name]))

    for step in range(inputs.steps):
        progress(f"bundle: step {step + 1} of {inputs.steps}")
        stage, slots = f"step.{step}", cache.lengths
        logits, cache = runner.decode(reference[f"{stage}.ids"][:, None], cache, never)
        expected = reference[f"{stage}.logits"]
        differences.append(measure_difference(stage, "logits", logits, expected, limits))
        agreements += _token_agreements(stage, logits, expected, inputs, limits)
        for name, value in _cache_tensors(cache):
            split = split_heads(value, runner.manifest.cache)
            written = split[np.arange(len(slots)), :, slots]  # [B, K, H]
            sizes = channel_sizes[name][:, :, 0]
            expected = reference[f"{stage}.{name}"]
            differences.append(measure_difference(stage, name, written, expected, limits, sizes))

    # Free generation starts from the prefill above. The decode steps above may have written into the cache of
    # this prefill in place. This is harmless: free generation overwrites each such slot before it reads it.
    progress("bundle: free generation")
    free_runs = tuple(_run_greedy(runner, prefilled, inputs, reference, limits))
    return Comparison(runner.manifest.precision.is_float32, tuple(differences), tuple(agreements), free_runs)


def _token_agreements(
    stage: str, actual: Array, expected: Array, inputs: ValidationInputs, limits: Limits
) -> Iterator[TokenAgreement]:
    """Compare logits float32[B, V] and yield the agreement of each row."""
    actual_ids, expected_ids = inputs.choose(actual), inputs.choose(expected)
    for row in range(len(actual)):
        yield TokenAgreement(
            stage,
            row,
            top1=bool(actual_ids[row] == expected_ids[row]),
            near_tie=is_near_tie(expected[row], actual_ids[row], expected_ids[row], limits),
            top10=count_shared_top(actual[row], expected[row]),
            divergence=kl_divergence(actual[row], expected[row]),
        )


def _run_greedy(
    runner: ModelRunner,
    prefilled: tuple[Array, Cache],
    inputs: ValidationInputs,
    reference: ReferenceOutputs,
    limits: Limits,
) -> Iterator[GreedyRun]:
    """Continue from the bundle's greedy tokens, and yield the comparison with the reference for each row."""
    never = Cancellation()
    logits, cache = prefilled
    chosen = []
    for _ in range(inputs.steps):
        chosen.append(inputs.choose(logits))
        logits, cache = runner.decode(chosen[-1][:, None], cache, never)
    expected = [reference[f"step.{step}.ids"] for step in range(inputs.steps)]
    for row in range(len(inputs.prompts)):
        actual_ids, expected_ids = (tuple(int(ids[row]) for ids in steps) for steps in (chosen, expected))
        different = [step for step in range(inputs.steps) if actual_ids[step] != expected_ids[step]]
        diverged_at, near_tie, margin = None, True, None
        if different:
            diverged_at = different[0]
            stage = "prefill" if diverged_at == 0 else f"step.{diverged_at - 1}"
            scores = reference[f"{stage}.logits"][row]
            actual_id, expected_id = actual_ids[diverged_at], expected_ids[diverged_at]
            near_tie = is_near_tie(scores, actual_id, expected_id, limits)
            margin = float(scores[expected_id] - scores[actual_id])
        yield GreedyRun(row, expected_ids, actual_ids, diverged_at, near_tie, margin)


def _cache_tensors(cache: Cache) -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(cache.values):
        yield f"{index // 2}.{'key' if index % 2 == 0 else 'value'}", value

"""Run single decode steps of a bundle with a cache of any length.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import ModelRunner

from .metrics import PROMPT

IMAGE_TOKENS = 64  # image tokens of the prefill; its cache is repeated until it has the requested length


def start_decoding(
    model: PaliGemma, runner: ModelRunner, rows: int, past: int, steps: int, capacity: int = 0
) -> Callable[[], None]:
    """Prefill a batch of random image features, and return a function that runs one decode step.

    The memory of the cache is not returned to the runner's buffer pool.

    Args:
        model: provides the tokenizer and the manifest.
        runner: runs the graphs of the model.
        rows: number of sequences in the batch (B).
        past: number of cached tokens of each sequence before the first step (P).
        steps: maximum number of calls of the returned function.
        capacity: minimum capacity of the cache in slots. The capacity is at least `past + steps`.
    """
    cancel, width = Cancellation(), model.manifest.model.hidden_size
    features = np.random.default_rng(0).standard_normal((rows, IMAGE_TOKENS, width), dtype=np.float32)
    prompt = np.tile(np.array(model.tokenizer.encode(PROMPT, 2 * IMAGE_TOKENS), dtype=np.int64), (rows, 1))
    used = IMAGE_TOKENS + prompt.shape[1]
    capacity = min(max(capacity, past + steps, used), model.manifest.model.context_length)
    lengths = np.full(rows, prompt.shape[1], dtype=np.int64)
    _, cache = runner.prefill(prompt, features, lengths, capacity, cancel)
    past_lengths = np.full(rows, past, dtype=np.int64)
    if cache.step_buffers is not None:
        # The buffer already has the capacity, and slots that were not written hold finite numbers.
        cache = replace(cache, lengths=past_lengths)
    else:
        spare = steps if model.manifest.cache.update == "in_place" else 0
        axis = model.manifest.cache.slot_axis
        cache = Cache(
            tuple(_repeated(value, axis, used, past, spare) for value in cache.values), past_lengths
        )

    def step() -> None:
        nonlocal cache
        _, cache = runner.decode(prompt[:, -1:], cache, cancel)

    return step


def _repeated(value: DeviceTensor, axis: int, used: int, past: int, spare: int) -> DeviceTensor:
    """Return a cache tensor of P = `past` + `spare` slots, which are on axis `axis`.

    The first `past` slots repeat the first `used` slots of `value`; the other slots are zero.
    """
    content = value.to_numpy_view()
    repeats = -(-past // used)
    array = np.concatenate([content.take(range(used), axis)] * repeats, axis).take(range(past), axis)
    array = np.pad(array, [(0, spare if each == axis else 0) for each in range(array.ndim)])
    return DeviceTensor.from_numpy(array, value.dtype, value.placement, "a repeated cache")

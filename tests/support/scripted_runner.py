"""PaliGemma with a scripted runner in place of onnxruntime, to test generation without graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.forced_tokens import single_tokens
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.kv_cache import Cache

STOP = -1  # in a script: stands for the stop id


class ScriptedRunner:
    """Runner whose logits make each row choose the next id of its script.

    An entry of a script is an id, STOP, or the logits of the step themselves, float32[V] or a scalar.
    """

    def __init__(self, model: PaliGemma, script: Sequence[Sequence[Any]]) -> None:
        self.manifest, self.placement = model.manifest, model.runner.placement
        self.script = script
        self.images = 0  # encoded so far
        self.steps = 0  # decode steps so far
        self.slots = 0  # capacity of the cache, from prefill
        self.released: bool | None = None  # the `reusable` argument of `release`

    def encode_image(self, pixel_values: NDArray[np.float32], cancel: Cancellation) -> NDArray[np.float32]:
        cancel.check()
        self.images += len(pixel_values)
        facts = self.manifest
        return np.zeros((len(pixel_values), facts.image.tokens, facts.model.hidden_size), np.float32)

    def gather_image_features(
        self, features: NDArray[np.float32], pictures: NDArray[np.int64], cancel: Cancellation
    ) -> NDArray[np.float32]:
        cancel.check()
        return features[pictures].reshape(len(pictures), -1, features.shape[2])

    def release(self, cache: Cache, *, reusable: bool) -> None:  # noqa: ARG002
        self.released = reusable

    def prefill(
        self,
        input_ids: NDArray[np.int64],
        image_features: NDArray[np.float32],
        text_lengths: NDArray[np.int64],
        slots: int,
        cancel: Cancellation,
    ) -> tuple[NDArray[np.float32], Cache]:
        cancel.check()
        self.slots = slots
        assert len(input_ids) == len(self.script)
        return self._logits(0), Cache((), image_features.shape[1] + text_lengths)

    def decode(
        self, input_ids: NDArray[np.int64], cache: Cache, cancel: Cancellation
    ) -> tuple[NDArray[np.float32], Cache]:
        cancel.check()
        for row, ids in enumerate(self.script):
            chosen = ids[self.steps] if self.steps < len(ids) else STOP
            if isinstance(chosen, int) and chosen != STOP:
                assert input_ids[row, 0] == chosen  # each row gets the id that it chose
        self.steps += 1
        assert max(cache.lengths) < self.slots  # each row has a free slot for the token
        return self._logits(self.steps), cache.advance(())

    def _logits(self, step: int) -> NDArray[np.float32]:
        tokens = self.manifest.tokens
        logits = np.zeros((len(self.script), self.manifest.model.vocab_size), np.float32)
        for row, ids in enumerate(self.script):
            entry = ids[min(step, len(ids) - 1)]
            if isinstance(entry, int):
                logits[row, tokens.stop[0] if entry == STOP else entry] = 1
            else:
                logits[row] = entry
        return logits


def scripted_model(model: PaliGemma, *script: Sequence[Any], **model_facts: Any) -> PaliGemma:
    """Return a model that follows `script`, one entry per row.

    Args:
        model: provides the tokenizer and the manifest.
        script: per row the ids or logits of its steps; the last entry repeats.
        model_facts: fields of the manifest's ModelFacts to change.
    """
    runner: Any = ScriptedRunner(model, script)
    manifest = single_tokens(model.manifest)  # a script has one entry per step
    manifest = replace(manifest, model=replace(manifest.model, **model_facts))
    runner.manifest = manifest
    return PaliGemma(manifest, model.tokenizer, runner, 0.0)


def ids_of(model: PaliGemma, text: str) -> list[int]:
    """Return the ids of a text without BOS and newline."""
    return list(model.tokenizer.encode(text, 99)[1:-1])

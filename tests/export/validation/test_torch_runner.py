"""A checkpoint that torch computes answers requests as its bundle does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from paths import SCENE

from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.export.validation.transformers_reference import TransformersReference
from paligemma_onnx.runtime import Cancellation, PaliGemma, Request

Folders = Callable[[str], Path]
PROMPTS = ("caption en", "answer en how many shapes are there?", "", "detect circle ; square")


@pytest.mark.parametrize("case", ["gemma_two_kv_heads", "gemma2_window"])
def test_torch_transformers_and_the_bundle_agree(bundle: Folders, checkpoint: Folders, case: str) -> None:
    folder, requests = checkpoint(case), [Request(SCENE, prompt) for prompt in PROMPTS]
    onnx = PaliGemma.load(bundle(case)).generate_batch(requests, max_new_tokens=9)
    expected = [answer.token_ids for answer in onnx]
    for reference in (None, TransformersReference(folder)):
        model = open_torch_model(folder, reference)
        answers = model.generate_batch(requests, max_new_tokens=9)
        assert [answer.token_ids for answer in answers] == expected
        assert (model.device, model.manifest.bundle_id) == ("cpu", "")


def test_it_can_be_stopped(checkpoint: Folders) -> None:
    model, cancel = open_torch_model(checkpoint("gemma_one_kv_head")), Cancellation()
    stream = model.stream(SCENE, "caption en", cancel=cancel)
    next(iter(stream))
    cancel.cancel()
    list(stream)
    assert stream.result.finish_reason == "cancelled"

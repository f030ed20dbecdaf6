"""The engine openvino: the same answers as onnxruntime, cancellation, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import block_imports, run_command, run_in_process
from paths import SCENE

from paligemma_onnx.runtime import BundleError, Cancellation, OptionError, PaliGemma, Request

Folders = Callable[[str], Path]
PROMPTS = ("caption en", "answer en what does it say?", "detect circle ; star")


def test_answers_are_those_of_onnxruntime(shipped_bundle: Path) -> None:
    openvino = PaliGemma.load(shipped_bundle, engine="openvino", threads=1)
    onnxruntime = PaliGemma.load(shipped_bundle, device="cpu")
    assert openvino.device == "cpu"
    # Rows of different lengths, and two images.
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    requests = [*(Request(SCENE, prompt) for prompt in PROMPTS), Request(noise, PROMPTS[0])]
    answers = [model.generate_batch(requests, logprobs=True) for model in (openvino, onnxruntime)]
    for actual, expected in zip(*answers, strict=True):
        assert actual.token_ids == expected.token_ids
        np.testing.assert_allclose(actual.logprobs, expected.logprobs, atol=1e-4)
    found = [model.segment(SCENE, "blue ring").objects for model in (openvino, onnxruntime)]
    assert [each.pixels for each in found[0]] == [each.pixels for each in found[1]]
    assert found[0][0].mask is not None


def test_threads_may_share_a_model(shipped_bundle: Path) -> None:
    model = PaliGemma.load(shipped_bundle, engine="openvino")
    expected = {prompt: model.generate(SCENE, prompt).token_ids for prompt in PROMPTS}
    actual = {}

    def ask(prompt: str) -> None:
        actual[prompt] = model.generate(SCENE, prompt).token_ids

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actual == expected


def test_an_answer_can_be_cancelled(shipped_bundle: Path) -> None:
    cancel = Cancellation()
    stream = PaliGemma.load(shipped_bundle, engine="openvino").stream(SCENE, PROMPTS[0], cancel=cancel)
    next(iter(stream))
    cancel.cancel()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"


def test_an_in_place_cache_is_refused(in_place_bundle: Folders) -> None:
    with pytest.raises(
        BundleError,
        match=r"in place, which OpenVINO does not do; export with --precision fp32 or int4-portable",
    ):
        PaliGemma.load(in_place_bundle("gemma_one_kv_head"), engine="openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tflite"}, "engine is 'tflite', expected onnxruntime or openvino"),
        (
            {"engine": "openvino", "device": "cuda"},
            "the engine openvino runs on the CPU, and device is 'cuda'",
        ),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PaliGemma.load(tmp_path, **options)  # type: ignore[arg-type]


def test_the_command_line_takes_the_engine(shipped_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("generate", "--model", shipped_bundle, "--image", SCENE, "caption en")
    outputs = [
        run_in_process(capsys, *arguments, "--engine", name).out for name in ("openvino", "onnxruntime")
    ]
    assert outputs[0] == outputs[1] != "\n"


def test_a_missing_openvino_is_named(shipped_bundle: Path) -> None:
    result = run_command(
        *(
            "generate",
            "--model",
            str(shipped_bundle),
            "--image",
            str(SCENE),
            "--engine",
            "openvino",
            "caption en",
        ),
        before=block_imports("openvino"),
    )
    assert result.code == 4
    assert "pip install 'paligemma-onnx[cpu,openvino]'" in result.error

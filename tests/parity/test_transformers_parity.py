"""Parity with transformers: transformers saves a checkpoint, and the exported bundle gives the same answers.

The oracle is transformers' processor and `generate` on the reloaded checkpoint, in float32 with eager
attention. From this project it only uses the manifest's suppressed ids and stop ids.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import CASES
from closeness import assert_close
from numpy.typing import NDArray
from paths import GOLDEN
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_onnx.export.report.text_table import format_table
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.self_check import PROMPTS, build_validation_inputs, synthetic_image
from paligemma_onnx.export.validation.transformers_reference import TransformersReference
from paligemma_onnx.export.validation.validate import describe_failure, validate
from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner
from paligemma_onnx.runtime.image.open import open_image, preprocess

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Folders = Callable[[str], Path]
SCENE = GOLDEN / "drawing.png"
PROMPT = "answer en how many shapes are there?"
STEPS = 32
# Largest error of a logit relative to the largest logit of the step. transformers counts positions from 1,
# this project from 0. The last token after two images is rotated by 530 rad (here) or 531 rad
# (transformers), and float32 resolves such angles to 3e-5 rad. Measured: up to 6.9e-6. A wrong constant or
# mask slot gives over 1e-3.
LOGIT_BOUND = 2e-5
SAME_POSITIONS_BOUND = 1e-5  # if both sides count positions alike; measured: up to 1.7e-6


@dataclass(frozen=True)
class Answer:
    """A greedy answer with the logits of each step."""

    ids: tuple[int, ...]  # without the stop id
    logits: NDArray[np.float32]  # float32[steps, V]


@cache
def model_and_processor(folder: Path) -> tuple[Any, Any]:
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    images = SiglipImageProcessorPil.from_pretrained(folder)
    return model.eval(), transformers.PaliGemmaProcessor(
        images, transformers.AutoTokenizer.from_pretrained(folder)
    )


def generate_with_transformers(
    folder: Path, manifest: Manifest, images: list[Image.Image], prompt: str, steps: int
) -> Answer:
    model, processor = model_and_processor(folder)
    text = "<image>" * len(images) + prompt
    inputs = processor(images=[images], text=[text], return_tensors="pt")
    assert not inputs["token_type_ids"].any()  # 0 marks the prefix, which has bidirectional attention
    answer = model.generate(
        **inputs,
        max_new_tokens=steps,
        do_sample=False,
        suppress_tokens=list(manifest.tokens.suppressed),
        eos_token_id=list(manifest.tokens.stop),
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = answer.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    if ids[-1] in manifest.tokens.stop:
        ids.pop()
    return Answer(tuple(ids), torch.cat(answer.logits).numpy())


class RecordingRunner:
    """An OnnxModelRunner that records the logits of every call and counts encoded images."""

    def __init__(self, runner: OnnxModelRunner) -> None:
        self.runner, self.images = runner, 0
        self.logits: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def encode_image(self, pixel_values: Any, cancel: Any) -> Any:
        self.images += len(pixel_values)
        return self.runner.encode_image(pixel_values, cancel)

    def prefill(self, *args: Any) -> Any:
        logits, cache = self.runner.prefill(*args)
        self.logits.append(logits)
        return logits, cache

    def decode(self, *args: Any) -> Any:
        logits, cache = self.runner.decode(*args)
        self.logits.append(logits)
        return logits, cache


def load_recording(folder: Path) -> tuple[PaliGemma, RecordingRunner]:
    model = PaliGemma.load(folder)
    recorder = RecordingRunner(model.runner)
    model.runner = recorder  # type: ignore[assignment]
    return model, recorder


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """An RGB drawing for which the random weights of every case generate answers without repetition."""
    with Image.open(SCENE) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("image_count", "steps"), [(1, STEPS), (2, 8)])
def test_greedy_ids_and_logits(
    checkpoint: Folders, bundle: Folders, scene: Image.Image, name: str, image_count: int, steps: int
) -> None:
    images = [scene, scene.rotate(90)][:image_count]
    model, recorder = load_recording(bundle(name))
    expected = generate_with_transformers(checkpoint(name), model.manifest, images, PROMPT, steps)
    answer = model.generate(images, PROMPT, max_new_tokens=steps)
    logits = np.concatenate(recorder.logits)
    for step, (actual, reference) in enumerate(zip(logits, expected.logits, strict=True)):
        assert_close(f"{name}, {image_count} images, step {step}", actual, reference, LOGIT_BOUND)
    assert answer.token_ids == expected.ids
    assert answer.image_tokens == image_count * model.manifest.image.tokens
    if steps == STEPS:
        assert len(set(expected.ids)) > 8, "a repetitive answer would be a weak test"


@pytest.mark.parametrize("name", CASES)
def test_prompts_and_pixels_are_the_processors(
    checkpoint: Folders, bundle: Folders, scene: Image.Image, name: str
) -> None:
    model, (_, processor) = PaliGemma.load(bundle(name)), model_and_processor(checkpoint(name))
    image = model.manifest.image
    for prompt in ("", "caption en", PROMPT, "detect circle ; square"):
        inputs = processor(images=[[scene]], text=["<image>" + prompt], return_tensors="pt")
        ids = [model.manifest.tokens.image] * image.tokens + list(model.tokenizer.encode(prompt, 1000))
        assert inputs["input_ids"][0].tolist() == ids
    pixels = preprocess(open_image(SCENE).rgb, image.size, image.mean, image.std, image.rescale_factor)
    assert np.array_equal(inputs["pixel_values"][0].numpy(), pixels)


def requests(scene: Image.Image) -> Sequence[Request]:
    """Return requests with prompts of four lengths and one to three images."""
    rotated = scene.rotate(180)
    return (
        Request(scene, "caption en"),
        Request(scene, PROMPT),
        Request([rotated, scene], ""),
        Request(rotated, "detect circle ; square ; triangle ; star"),
        Request([scene, rotated], "answer en which one is larger?"),
        Request([scene, scene, rotated], "caption en"),
        Request(scene, ""),
    )


@pytest.mark.parametrize("name", CASES)
def test_a_batch_answers_as_its_requests_alone(bundle: Folders, scene: Image.Image, name: str) -> None:
    model, recorder = load_recording(bundle(name))
    batch = model.generate_batch(requests(scene), max_new_tokens=16)
    assert recorder.images == 2  # each distinct image is encoded once
    alone = [model.generate(request.images, request.prompt, max_new_tokens=16) for request in requests(scene)]
    assert [answer.token_ids for answer in batch] == [answer.token_ids for answer in alone]
    assert [answer.finish_reason for answer in batch] == [answer.finish_reason for answer in alone]
    assert [answer.text for answer in batch] == [answer.text for answer in alone]
    assert len({answer.token_ids for answer in alone}) > len(alone) // 2  # the answers depend on the requests


@pytest.mark.parametrize("name", CASES)
def test_a_padded_batch_has_the_logits_of_its_rows(bundle: Folders, scene: Image.Image, name: str) -> None:
    model, recorder = load_recording(bundle(name))
    rows = [request for request in requests(scene) if not isinstance(request.images, list)]
    assert len({model.tokenizer.encode(request.prompt, 1000) for request in rows}) == 4
    model.generate_batch(rows, max_new_tokens=8)
    batched = np.stack(recorder.logits, axis=1)  # [B, steps, V]
    for row, request in enumerate(rows):
        recorder.logits.clear()
        model.generate(request.images, request.prompt, max_new_tokens=8)
        alone = np.concatenate(recorder.logits)
        # After its stop id, a row of the batch continues as padding.
        assert_close(f"{name} row {row}", batched[row, : len(alone)], alone, SAME_POSITIONS_BOUND)


@pytest.mark.parametrize("name", CASES)
def test_validation_against_transformers_passes(checkpoint: Folders, bundle: Folders, name: str) -> None:
    model, source = PaliGemma.load(bundle(name)), open_source(checkpoint(name))
    pixels = synthetic_image(model.manifest.image.size)
    validation = validate(
        bundle(name),
        model.manifest,
        source=source,
        load_reference=lambda: ("transformers", TransformersReference(checkpoint(name))),
        inputs=build_validation_inputs(
            model.manifest, model.tokenizer, np.stack([pixels, -pixels]), PROMPTS, 8
        ),
        placement=choose_placement("cpu", None),
        progress=lambda _: None,
    )
    print(format_table(validation))
    assert validation.passed, describe_failure(validation)
    # Much tighter than the tolerance of the command, which allows for models a thousand times larger.
    assert max(difference.relative for difference in validation.comparison.differences) < SAME_POSITIONS_BOUND
    assert all(run.diverged_at is None for run in validation.comparison.free_runs)

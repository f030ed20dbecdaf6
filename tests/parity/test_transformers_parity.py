"""Through files: transformers saves a checkpoint, we export it, and the bundle answers as transformers does.

The oracle is transformers' own processor and `generate` on the reloaded checkpoint, in float32 with eager
attention. Nothing of ours takes part in its answer but the list of ids that may not be chosen.
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

# transformers' processor, when it makes labels nobody asked for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Folders = Callable[[str], Path]
SCENE = GOLDEN / "drawing.png"
PROMPT = "answer en how many shapes are there?"
STEPS = 32
# Largest error of a logit, as a share of the step's largest. transformers counts positions from 1 and we from
# 0; the last token behind two pictures turns by 530 rad, which float32 knows to 3e-5 and rounds otherwise at
# 531. Measured: up to 6.9e-6. A wrong constant or mask slot stands above 1e-3.
LOGITS = 2e-5
SAME = 1e-5  # the same positions on both sides; measured: up to 1.7e-6


@dataclass(frozen=True)
class Answer:
    """Ids and the logits they were chosen from."""

    ids: tuple[int, ...]  # the stop id left out
    logits: NDArray[np.float32]  # [steps, V]


@cache
def model_and_processor(folder: Path) -> tuple[Any, Any]:
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    images = SiglipImageProcessorPil.from_pretrained(folder)
    return model.eval(), transformers.PaliGemmaProcessor(
        images, transformers.AutoTokenizer.from_pretrained(folder)
    )


def ask_transformers(
    folder: Path, manifest: Manifest, pictures: list[Image.Image], prompt: str, steps: int
) -> Answer:
    model, processor = model_and_processor(folder)
    text = "<image>" * len(pictures) + prompt
    inputs = processor(images=[pictures], text=[text], return_tensors="pt")
    assert not inputs["token_type_ids"].any()  # all of it is the prefix, which sees itself both ways
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


class Listener:
    """A GraphRunner that keeps every row's logits and counts pictures."""

    def __init__(self, runner: OnnxModelRunner) -> None:
        self.runner, self.pictures = runner, 0
        self.logits: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def encode_image(self, pixel_values: Any, cancel: Any) -> Any:
        self.pictures += len(pixel_values)
        return self.runner.encode_image(pixel_values, cancel)

    def prefill(self, *args: Any) -> Any:
        logits, kept = self.runner.prefill(*args)
        self.logits.append(logits)
        return logits, kept

    def decode(self, *args: Any) -> Any:
        logits, kept = self.runner.decode(*args)
        self.logits.append(logits)
        return logits, kept


def listening(folder: Path) -> tuple[PaliGemma, Listener]:
    model = PaliGemma.load(folder)
    listener = Listener(model.runner)
    model.runner = listener  # type: ignore[assignment]
    return model, listener


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """A drawing as RGB, on which random weights of every case talk without repeating themselves."""
    with Image.open(SCENE) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("pictures", "steps"), [(1, STEPS), (2, 8)])
def test_greedy_ids_and_logits(
    checkpoint: Folders, bundle: Folders, scene: Image.Image, name: str, pictures: int, steps: int
) -> None:
    shown = [scene, scene.rotate(90)][:pictures]
    model, listener = listening(bundle(name))
    expected = ask_transformers(checkpoint(name), model.manifest, shown, PROMPT, steps)
    answer = model.generate(shown, PROMPT, max_new_tokens=steps)
    logits = np.concatenate(listener.logits)
    for step, (ours, theirs) in enumerate(zip(logits, expected.logits, strict=True)):
        assert_close(f"{name}, {pictures} pictures, step {step}", ours, theirs, LOGITS)
    assert answer.token_ids == expected.ids
    assert answer.image_tokens == pictures * model.manifest.image.tokens
    if steps == STEPS:
        assert len(set(expected.ids)) > 8, "an answer that repeats itself proves little"


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
    """Prompts of four lengths, three numbers of pictures."""
    turned = scene.rotate(180)
    return (
        Request(scene, "caption en"),
        Request(scene, PROMPT),
        Request([turned, scene], ""),
        Request(turned, "detect circle ; square ; triangle ; star"),
        Request([scene, turned], "answer en which one is larger?"),
        Request([scene, scene, turned], "caption en"),
        Request(scene, ""),
    )


@pytest.mark.parametrize("name", CASES)
def test_a_batch_answers_as_its_requests_alone(bundle: Folders, scene: Image.Image, name: str) -> None:
    model, listener = listening(bundle(name))
    batch = model.generate_batch(requests(scene), max_new_tokens=16)
    assert listener.pictures == 2  # different ones, each once
    alone = [model.generate(one.images, one.prompt, max_new_tokens=16) for one in requests(scene)]
    assert [answer.token_ids for answer in batch] == [answer.token_ids for answer in alone]
    assert [answer.finish_reason for answer in batch] == [answer.finish_reason for answer in alone]
    assert [answer.text for answer in batch] == [answer.text for answer in alone]
    assert len({answer.token_ids for answer in alone}) > len(alone) // 2  # requests matter


@pytest.mark.parametrize("name", CASES)
def test_a_padded_batch_has_the_logits_of_its_rows(bundle: Folders, scene: Image.Image, name: str) -> None:
    model, listener = listening(bundle(name))
    four = [one for one in requests(scene) if not isinstance(one.images, list)]
    assert len({model.tokenizer.encode(one.prompt, 1000) for one in four}) == 4
    model.generate_batch(four, max_new_tokens=8)
    together = np.stack(listener.logits, axis=1)  # [B, steps, V]
    for row, one in enumerate(four):
        listener.logits.clear()
        model.generate(one.images, one.prompt, max_new_tokens=8)
        alone = np.concatenate(listener.logits)
        # A row that has ended goes on as padding in the batch.
        assert_close(f"{name} row {row}", together[row, : len(alone)], alone, SAME)


@pytest.mark.parametrize("name", CASES)
def test_validation_against_transformers_passes(checkpoint: Folders, bundle: Folders, name: str) -> None:
    model, source = PaliGemma.load(bundle(name)), open_source(checkpoint(name), None)
    picture = synthetic_image(model.manifest.image.size)
    validation = validate(
        bundle(name),
        model.manifest,
        source=source.weights(model.manifest.precision.name),
        constants=source.constants,
        load_reference=lambda: ("transformers", TransformersReference(checkpoint(name))),
        mask_decoder=None,
        inputs=build_validation_inputs(
            model.manifest, model.tokenizer, np.stack([picture, -picture]), PROMPTS, 8
        ),
        placement=choose_placement("cpu", None),
        progress=lambda _: None,
    )
    print(format_table(validation))
    assert validation.passed, describe_failure(validation)
    # Far inside the tolerance of the command, which is made for models a thousand times larger.
    assert max(difference.relative for difference in validation.comparison.differences) < SAME
    assert all(run.diverged_at is None for run in validation.comparison.free_runs)

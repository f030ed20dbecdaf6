"""`transformers.pipeline` with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import run_in_process
from paths import SCENE
from PIL import Image
from transformers import pipeline

from paligemma_onnx.optimum import ORTPaliGemma

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def ask(model: ORTPaliGemma, processor: Any) -> Any:
    return pipeline("image-text-to-text", model=model, processor=processor)


@pytest.mark.parametrize(
    "prompt",
    [
        "caption en",
        *(
            pytest.param(prompt, marks=pytest.mark.slow)
            for prompt in (
                "answer en what colour is the square?",
                "detect green circle",
                "segment purple star",
            )
        ),
    ],
)
def test_the_text_is_that_of_the_command(
    ask: Any, shipped_bundle: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    arguments = ("--model", shipped_bundle, "--image", SCENE, prompt)
    printed = run_in_process(capsys, "generate", *arguments).out.removesuffix("\n")
    assert printed
    (answer,) = ask(str(SCENE), text=f"<image>{prompt}", return_full_text=False)
    assert answer["generated_text"] == printed
    (full,) = ask(str(SCENE), text=f"<image>{prompt}")
    assert full["generated_text"] == f"<image>{prompt}{printed}"


def test_it_prints_nothing(
    model: ORTPaliGemma, scene: Image.Image, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pipeline logs an error if it does not know a class."""
    ask = pipeline("image-text-to-text", model=model, processor=model.processor)
    ask(scene, text="<image>caption en")
    assert capfd.readouterr() == ("", "")
    assert "ORTPaliGemma" in repr(ask)


@pytest.mark.slow
def test_a_saved_pipeline(ask: Any, scene: Image.Image, tmp_path: Path) -> None:
    ask.save_pretrained(tmp_path / "saved")
    loaded = ORTPaliGemma.from_pretrained(tmp_path / "saved", device="cpu")
    again = pipeline("image-text-to-text", model=loaded, processor=loaded.processor)
    question = {"text": "<image>caption en", "max_new_tokens": 4}
    assert again(scene, **question) == ask(scene, **question)


@pytest.mark.slow
def test_several_images(ask: Any, model: ORTPaliGemma, scene: Image.Image) -> None:
    other = scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    texts = ["<image>caption en", "<image>answer en what colour is the square?"]
    answers = ask([scene, other], text=texts, return_full_text=False, max_new_tokens=20)
    expected = [
        model.model.generate(image, text.removeprefix("<image>"), max_new_tokens=20).text
        for image, text in zip((scene, other), texts, strict=True)
    ]
    assert [answer["generated_text"] for answer in answers] == expected


@pytest.mark.slow
def test_batches_of_the_pipeline(ask: Any, scene: Image.Image) -> None:
    """The pipeline pads the tensors of separate prompts, labels among them."""
    texts = ("<image>caption en", "<image>answer en what colour is the square?", "<image>detect green circle")
    items = [{"images": scene, "text": text} for text in texts]
    options = {"return_full_text": False, "max_new_tokens": 8}
    together = list(ask((item for item in items), batch_size=3, **options))
    assert together == list(ask((item for item in items), **options))
    assert [answer["input_text"] for (answer,) in together] == list(texts)


def test_options_of_the_pipeline(ask: Any, scene: Image.Image) -> None:
    text = "<image>caption en"
    sampling = {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2, "max_new_tokens": 4}
    assert len(ask(scene, text=text, generate_kwargs=sampling)) == 2
    (answer,) = ask(scene, text=text, max_new_tokens=2, return_full_text=False)
    assert answer["generated_text"] == "a striped"
    with pytest.raises(ValueError, match="num_beams=2 is not supported"):
        ask(scene, text=text, generate_kwargs={"num_beams": 2})

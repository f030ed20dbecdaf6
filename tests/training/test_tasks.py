"""Prompts and answers of a scene worked out by hand, and that nothing ambiguous is asked."""

from __future__ import annotations

import re

import numpy as np
import pytest

from paligemma_onnx.runtime.detection.parsing import parse_answer
from training.scenes import SIDE, Item, Scene, draw
from training.tasks import QUESTIONS, Example, Kind, caption, description, example, location, segments

# Two rings, one of them striped, left of an orange star; "owl" is printed somewhere.
HAND = Scene(
    seed=0,
    items=(
        Item("red", "ring", "plain", (10, 20, 70, 80)),
        Item("blue", "ring", "striped", (80, 130, 140, 190)),
        Item("orange", "star", "dotted", (150, 30, 210, 90)),
    ),
    sign="owl",
)
CODES = [[1] * 16, [2] * 16, list(range(16))]


def everything(scene: Scene, kind: Kind, draws: int = 300) -> dict[str, str]:
    """All prompts of a kind with their answers; one prompt has one answer."""
    rng, found = np.random.RandomState(0), dict[str, str]()
    for _ in range(draws):
        one = example(scene, kind, rng, CODES[: len(scene.items)])
        if one is None:
            return {}
        assert found.setdefault(one.prompt, one.suffix) == one.suffix
    return found


def test_captions() -> None:
    assert caption(HAND) == "a red ring, a striped blue ring, a dotted orange star and the word owl"
    assert description(HAND) == (
        "a red ring at the top left, a striped blue ring at the bottom centre, "
        "a dotted orange star at the top right and the word owl"
    )
    lonely = Scene(1, (Item("orange", "star", "plain", (0, 0, 60, 60)),), None)
    assert caption(lonely) == "an orange star"
    assert caption(Scene(2, lonely.items, "42")) == "an orange star and the number 42"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Two rings: nobody asks for the colour of "the ring".
        ("colour", {"what colour is the star?": "orange"}),
        (
            "shape",
            {
                "what shape is the red object?": "ring",
                "what shape is the blue object?": "ring",
                "what shape is the orange object?": "star",
            },
        ),
        (
            "texture",
            {
                "what texture is the red ring?": "plain",
                "what texture is the blue ring?": "striped",
                "what texture is the orange star?": "dotted",
                "what texture is the star?": "dotted",
            },
        ),
        ("text", {"what does it say?": "owl"}),
    ],
)
def test_questions(kind: Kind, expected: dict[str, str]) -> None:
    assert everything(HAND, kind) == {f"answer en {ask}": answer for ask, answer in expected.items()}


def test_counts() -> None:
    found = everything(HAND, "count")
    assert found["answer en how many objects are there?"] == "3"
    assert found["answer en how many rings are there?"] == "2"
    assert found["answer en how many blue objects are there?"] == "1"
    assert "0" in found.values()


def test_positions() -> None:
    found = everything(HAND, "position", draws=600)
    assert found["answer en where is the red ring?"] == "top left"
    assert found["answer en where is the orange star?"] == "top right"
    # The blue ring's centre, (110, 160), is 2 pixels from the middle.
    assert "answer en where is the blue ring?" not in found
    assert found["answer en is the red ring left or right of the blue ring?"] == "left"
    assert found["answer en is the star left or right of the red ring?"] == "right"
    assert found["answer en is the blue ring above or below the star?"] == "below"
    # Centres at 50 and 60: neither is above the other by more than 10 pixels.
    assert "answer en is the red ring above or below the star?" not in found


def test_locations() -> None:
    assert location(0) == "<loc0000>"
    assert location(SIDE) == "<loc1023>"
    assert location(SIDE / 2) == "<loc0512>"  # 511.5, to even
    assert segments(range(16)).startswith("<seg000><seg001>")


def test_detections() -> None:
    found = everything(HAND, "detect")
    # 20, 10, 80, 70 of 224 in 1023rds: 91.3, 45.7, 365.4, 319.7
    red = "<loc0091><loc0046><loc0365><loc0320> "
    blue = "<loc0594><loc0365><loc0868><loc0639> "
    assert found["detect red ring"] == f"{red}red ring"
    assert found["detect ring"] == f"{red}ring ; {blue}ring"
    assert found["detect blue ring ; red ring"] == f"{blue}blue ring ; {red}red ring"
    assert "detect ring ; red ring" not in found
    assert any(not answer for answer in found.values())  # what is not there is not found


def test_segmentations() -> None:
    found = everything(HAND, "segment")
    codes = "".join(f"<seg{code:03d}>" for code in range(16))
    assert found["segment orange star"] == f"<loc0137><loc0685><loc0411><loc0959>{codes} orange star"
    first, second = found["segment ring"].split(" ; ")
    assert first.endswith("<seg001> ring")
    assert second.endswith("<seg002> ring")


def test_boxes_read_back_are_those_of_the_scene() -> None:
    half = 0.5 / 1023 * SIDE + 1e-9  # pixels, rounding to a token
    for seed in range(60):
        scene = draw(seed).scene
        one = example(scene, "detect", np.random.RandomState(seed))
        assert one is not None
        read = parse_answer(one.suffix)
        assert not read.warnings
        for found, index in zip(read.found, one.items, strict=True):
            assert found.box.pixels(SIDE, SIDE) == pytest.approx(scene.items[index].box, abs=half)


def test_a_prompt_never_has_two_answers() -> None:
    """Objects are found by their names: a question names one, or all that it counts."""
    for seed in range(80):
        scene = draw(seed, "held-out" if seed % 2 else "seen").scene
        for kind in QUESTIONS:
            for prompt in everything(scene, kind, draws=20):
                for name in re.findall(
                    r"the ((?:\w+ )?(?:circle|square|triangle|star|cross|ring))\b", prompt
                ):
                    assert sum(name in (item.name, item.shape) for item in scene.items) == 1, prompt


def test_what_an_example_is_about() -> None:
    one = example(HAND, "colour", np.random.RandomState(0))
    assert one == Example("colour", "answer en what colour is the star?", "orange", (2,))

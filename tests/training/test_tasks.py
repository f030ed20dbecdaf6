"""Prompts and answers of a scene, compared with ones written by hand; no prompt is ambiguous."""

from __future__ import annotations

import re

import numpy as np
import pytest

from paligemma_onnx.runtime.detection.parsing import parse_answer
from training.scenes import SCENE_SIDE, Item, Scene, render_scene
from training.tasks import (
    QUESTIONS,
    Example,
    Kind,
    location_token,
    make_caption,
    make_description,
    make_example,
    seg_tokens,
)

# Two rings, one of them striped, to the left of an orange star, and the printed word "owl".
SCENE = Scene(
    seed=0,
    items=(
        Item("red", "ring", "plain", (10, 20, 70, 80)),
        Item("blue", "ring", "striped", (80, 130, 140, 190)),
        Item("orange", "star", "dotted", (150, 30, 210, 90)),
    ),
    sign="owl",
)
MASK_TOKENS = [[1] * 16, [2] * 16, list(range(16))]


def all_examples(scene: Scene, kind: Kind, draws: int = 300) -> dict[str, str]:
    """Return the answer of every prompt of a kind; raise if a prompt has two answers."""
    rng, answers = np.random.RandomState(0), dict[str, str]()
    for _ in range(draws):
        example = make_example(scene, kind, rng, MASK_TOKENS[: len(scene.items)])
        if example is None:
            return {}
        assert answers.setdefault(example.prompt, example.suffix) == example.suffix
    return answers


def test_captions() -> None:
    assert make_caption(SCENE) == "a red ring, a striped blue ring, a dotted orange star and the word owl"
    assert make_description(SCENE) == (
        "a red ring at the top left, a striped blue ring at the bottom centre, "
        "a dotted orange star at the top right and the word owl"
    )
    single = Scene(1, (Item("orange", "star", "plain", (0, 0, 60, 60)),), None)
    assert make_caption(single) == "an orange star"
    assert make_caption(Scene(2, single.items, "42")) == "an orange star and the number 42"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # "The ring" would be ambiguous, because the scene has two.
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
    prompts = {f"answer en {question}": answer for question, answer in expected.items()}
    assert all_examples(SCENE, kind) == prompts


def test_counts() -> None:
    answers = all_examples(SCENE, "count")
    assert answers["answer en how many objects are there?"] == "3"
    assert answers["answer en how many rings are there?"] == "2"
    assert answers["answer en how many blue objects are there?"] == "1"
    assert "0" in answers.values()


def test_positions() -> None:
    answers = all_examples(SCENE, "position", draws=600)
    assert answers["answer en where is the red ring?"] == "top left"
    assert answers["answer en where is the orange star?"] == "top right"
    # The blue ring's centre, (110, 160), is 2 pixels from the middle.
    assert "answer en where is the blue ring?" not in answers
    assert answers["answer en is the red ring left or right of the blue ring?"] == "left"
    assert answers["answer en is the star left or right of the red ring?"] == "right"
    assert answers["answer en is the blue ring above or below the star?"] == "below"
    # Centres at 50 and 60: neither is above the other by more than 10 pixels.
    assert "answer en is the red ring above or below the star?" not in answers


def test_locations() -> None:
    assert location_token(0) == "<loc0000>"
    assert location_token(SCENE_SIDE) == "<loc1023>"
    assert location_token(SCENE_SIDE / 2) == "<loc0512>"  # 511.5, rounded to even
    assert seg_tokens(range(16)).startswith("<seg000><seg001>")


def test_detections() -> None:
    answers = all_examples(SCENE, "detect")
    # 20, 10, 80 and 70 of 224 pixels, in 1023rds: 91.3, 45.7, 365.4, 319.7
    red = "<loc0091><loc0046><loc0365><loc0320> "
    blue = "<loc0594><loc0365><loc0868><loc0639> "
    assert answers["detect red ring"] == f"{red}red ring"
    assert answers["detect ring"] == f"{red}ring ; {blue}ring"
    assert answers["detect blue ring ; red ring"] == f"{blue}blue ring ; {red}red ring"
    assert "detect ring ; red ring" not in answers
    assert any(not answer for answer in answers.values())  # an absent class has an empty answer


def test_segmentations() -> None:
    answers = all_examples(SCENE, "segment")
    codes = "".join(f"<seg{code:03d}>" for code in range(16))
    assert answers["segment orange star"] == f"<loc0137><loc0685><loc0411><loc0959>{codes} orange star"
    first, second = answers["segment ring"].split(" ; ")
    assert first.endswith("<seg001> ring")
    assert second.endswith("<seg002> ring")


@pytest.mark.slow
def test_boxes_read_back_are_those_of_the_scene() -> None:
    max_error = 0.5 / 1023 * SCENE_SIDE + 1e-9  # pixels, from rounding to a location token
    for seed in range(60):
        scene = render_scene(seed).scene
        example = make_example(scene, "detect", np.random.RandomState(seed))
        assert example is not None
        parsed = parse_answer(example.suffix)
        assert not parsed.warnings
        for detection, index in zip(parsed.objects, example.items, strict=True):
            box = detection.box.pixels(SCENE_SIDE, SCENE_SIDE)
            assert box == pytest.approx(scene.items[index].box, abs=max_error)


@pytest.mark.slow
def test_a_prompt_never_has_two_answers() -> None:
    """The phrase for an object in a question fits exactly one object."""
    for seed in range(80):
        scene = render_scene(seed, "held-out" if seed % 2 else "seen").scene
        for kind in QUESTIONS:
            for prompt in all_examples(scene, kind, draws=20):
                for name in re.findall(
                    r"the ((?:\w+ )?(?:circle|square|triangle|star|cross|ring))\b", prompt
                ):
                    assert sum(name in (item.name, item.shape) for item in scene.items) == 1, prompt


def test_what_an_example_is_about() -> None:
    example = make_example(SCENE, "colour", np.random.RandomState(0))
    assert example == Example("colour", "answer en what colour is the star?", "orange", (2,))

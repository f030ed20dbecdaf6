"""Scores of answers, compared with values computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image

from paligemma_onnx.runtime import Generation, Timings
from paligemma_onnx.runtime.detection.detections import detections
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer
from training.scenes import SCENE_SIDE, Item, RenderedScene, Scene
from training.scores import Score, box_iou, mask_iou, match_boxes, score_answer, summarize
from training.tasks import Example

SEG_TOKENS = "".join(["<seg003>"] * 16)
TOKENIZER = PromptTokenizer.load(ROOT / "export" / "demo" / "paligemma-scenes" / "tokenizer.json")


def square(left: int, top: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((SCENE_SIDE, SCENE_SIDE), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


# Two squares of 112 pixels, whose edges are the location tokens 0, 512 and 1023 to a tenth of a pixel.
ITEMS = (
    Item("red", "square", "plain", (0, 0, 112, 112)),
    Item("red", "star", "plain", (112, 112, 224, 224)),  # a held-out pair
)
RENDERED = RenderedScene(
    Scene(0, ITEMS, None),
    np.zeros((SCENE_SIDE, SCENE_SIDE, 3), np.uint8),
    (square(0, 0, 112), square(112, 112, 112)),
)
FIRST, SECOND = "<loc0000><loc0000><loc0512><loc0512>", "<loc0512><loc0512><loc1023><loc1023>"
DETECT = Example("detect", "detect square ; star", f"{FIRST} square ; {SECOND} star", (0, 1))
SEGMENT = Example("segment", "segment square", f"{FIRST}{SEG_TOKENS} square", (0,))


def full_mask_if_three(codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Decode masks that fill their boxes if the first code is 3 and are empty otherwise.

    int64[masks, 16] -> float32[masks, 64, 64].
    """
    level = np.where(codes[:, :1, None] == 3, 1.0, -1.0).astype(np.float32)
    return np.broadcast_to(level, (len(codes), 64, 64)).copy()


def score(example: Example, text: str) -> Score:
    runner: Any = SimpleNamespace(decode_masks=lambda codes, _: full_mask_if_three(codes))
    timings = Timings(0, 0, 0, 0, 0, 0)
    token_ids = TOKENIZER.encode(text, 999)[1:-1]
    answer = Generation(text, token_ids, "stop", 0, 0, 0, "cpu", timings, ())
    image = Image.fromarray(RENDERED.pixels)
    objects = detections(answer, image, runner, TOKENIZER, masks=example is SEGMENT)
    return score_answer(RENDERED, example, text, objects)


def test_a_text_is_right_to_the_letter() -> None:
    example = Example("colour", "answer en what colour is the star?", "red", (1,))
    assert score(example, "red") == Score("colour", about_held_out=True, correct=True)
    assert not score(example, "red ").correct


def test_a_detection_is_right() -> None:
    result = score(DETECT, DETECT.suffix)
    assert (result.correct, result.objects, result.detections, result.hits) == (True, 2, 2, 2)
    assert result.box_iou == pytest.approx(2, abs=0.01)
    assert score(DETECT, f"{SECOND} star ; {FIRST} square").hits == 2  # in any order


@pytest.mark.parametrize(
    ("text", "detections", "hits"),
    [
        ("", 0, 0),
        ("nothing", 0, 0),
        (f"{FIRST} star ; {SECOND} square", 2, 0),  # labels swapped
        (f"{FIRST} square ; {FIRST} square", 2, 1),  # one object, detected twice
        ("<loc0000><loc0000><loc0256><loc0512> square", 1, 1),  # half of the object: IoU 0.5005
        ("<loc0000><loc0000><loc0200><loc0512> square", 1, 0),
    ],
)
def test_a_detection_is_wrong(text: str, detections: int, hits: int) -> None:
    result = score(DETECT, text)
    assert (result.correct, result.detections, result.hits) == (False, detections, hits)


def test_masks() -> None:
    assert score(SEGMENT, SEGMENT.suffix).mask_iou == pytest.approx(1)
    assert score(SEGMENT, SEGMENT.suffix.replace("seg003", "seg004")).mask_iou == 0
    assert score(SEGMENT, f"{FIRST} square").mask_iou == 0  # a box without a mask
    assert score(SEGMENT, f"<loc0000><loc0000><loc0512><loc0256>{SEG_TOKENS} square").mask_iou == 0.5


def test_the_best_pairs_go_first() -> None:
    assert match_boxes(np.array([[0.6, 0.9], [0.7, 0.8]])) == [(0, 1), (1, 0)]
    assert match_boxes(np.zeros((2, 2))) == []
    assert match_boxes(np.zeros((0, 3))) == []


def test_overlaps() -> None:
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert mask_iou(square(0, 0, 10), square(5, 0, 10)) == pytest.approx(1 / 3)


def test_a_summary() -> None:
    correct = Score("colour", about_held_out=False, correct=True)
    wrong = Score("colour", about_held_out=True, correct=False)
    metrics = summarize(
        [
            correct,
            correct,
            wrong,
            Score("caption", False, True),
            Score("detect", False, False, objects=3, detections=2, hits=2, box_iou=1.8),
            Score("detect", False, False, objects=0, detections=1),
            Score("segment", False, False, objects=2, detections=3, mask_iou=1.8),
        ]
    )
    assert metrics["answers"] == metrics["answers: colour"] == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["answers about held-out"] == 0
    assert metrics["answers: text"] is None
    assert metrics["captions"] == 1
    assert metrics["detection F1 at IoU 0.5"] == pytest.approx(4 / 6, abs=1e-4)
    assert metrics["detection mean IoU"] == 0.6
    assert metrics["mask mean IoU"] == 0.6  # one surplus detection
    assert metrics["prompts"] == 7

"""Scores of answers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from paligemma_onnx.runtime import Generation, Timings
from paligemma_onnx.runtime.detection.detections import detections
from training.scenes import SIDE, Drawing, Item, Scene
from training.scores import Outcome, box_iou, mask_iou, matched, outcome, summary
from training.tasks import Example

CODES = "".join(["<seg003>"] * 16)


def square(left: int, top: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


# Two squares of 112 pixels, which the location tokens 0, 512 and 1023 describe to a tenth of a pixel.
ITEMS = (
    Item("red", "square", "plain", (0, 0, 112, 112)),
    Item("red", "star", "plain", (112, 112, 224, 224)),  # a held-out pair
)
HERE = Drawing(
    Scene(0, ITEMS, None), np.zeros((SIDE, SIDE, 3), np.uint8), (square(0, 0, 112), square(112, 112, 112))
)
FIRST, SECOND = "<loc0000><loc0000><loc0512><loc0512>", "<loc0512><loc0512><loc1023><loc1023>"
DETECT = Example("detect", "detect square ; star", f"{FIRST} square ; {SECOND} star", (0, 1))
SEGMENT = Example("segment", "segment square", f"{FIRST}{CODES} square", (0,))


def whole(codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """A mask decoder whose masks fill their boxes where the first code is 3, and nothing otherwise."""
    inside = np.where(codes[:, :1, None] == 3, 1.0, -1.0).astype(np.float32)
    return np.broadcast_to(inside, (len(codes), 64, 64)).copy()


def scored(example: Example, text: str) -> Outcome:
    runner: Any = SimpleNamespace(decode_masks=lambda codes, _: whole(codes))
    times = Timings(0, 0, 0, 0, 0, 0)
    answer = Generation(text, (), "stop", 0, 0, 0, "cpu", times, ())
    picture = Image.fromarray(HERE.pixels)
    return outcome(HERE, example, text, detections(answer, picture, runner, masks=example is SEGMENT))


def test_a_text_is_right_to_the_letter() -> None:
    example = Example("colour", "answer en what colour is the star?", "red", (1,))
    assert scored(example, "red") == Outcome("colour", about_held_out=True, right=True)
    assert not scored(example, "red ").right


def test_a_detection_is_right() -> None:
    found = scored(DETECT, DETECT.suffix)
    assert (found.right, found.there, found.said, found.hits) == (True, 2, 2, 2)
    assert found.box_iou == pytest.approx(2, abs=0.01)
    assert scored(DETECT, f"{SECOND} star ; {FIRST} square").hits == 2  # in any order


@pytest.mark.parametrize(
    ("text", "said", "hits"),
    [
        ("", 0, 0),
        ("nothing", 0, 0),
        (f"{FIRST} star ; {SECOND} square", 2, 0),  # labels the wrong way round
        (f"{FIRST} square ; {FIRST} square", 2, 1),  # said twice, there once
        ("<loc0000><loc0000><loc0256><loc0512> square", 1, 1),  # half of it: IoU 0.5005
        ("<loc0000><loc0000><loc0200><loc0512> square", 1, 0),
    ],
)
def test_a_detection_is_wrong(text: str, said: int, hits: int) -> None:
    found = scored(DETECT, text)
    assert (found.right, found.said, found.hits) == (False, said, hits)


def test_masks() -> None:
    assert scored(SEGMENT, SEGMENT.suffix).mask_iou == pytest.approx(1)
    assert scored(SEGMENT, SEGMENT.suffix.replace("seg003", "seg004")).mask_iou == 0
    assert scored(SEGMENT, f"{FIRST} square").mask_iou == 0  # a box without a mask
    assert scored(SEGMENT, f"<loc0000><loc0000><loc0512><loc0256>{CODES} square").mask_iou == 0.5


def test_the_best_pairs_go_first() -> None:
    assert matched(np.array([[0.6, 0.9], [0.7, 0.8]])) == [(0, 1), (1, 0)]
    assert matched(np.zeros((2, 2))) == []
    assert matched(np.zeros((0, 3))) == []


def test_overlaps() -> None:
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert mask_iou(square(0, 0, 10), square(5, 0, 10)) == pytest.approx(1 / 3)


def test_a_summary() -> None:
    right, wrong = (Outcome("colour", about_held_out=held, right=not held) for held in (False, True))
    found = summary(
        [
            right,
            right,
            wrong,
            Outcome("caption", False, True),
            Outcome("detect", False, False, there=3, said=2, hits=2, box_iou=1.8),
            Outcome("detect", False, False, there=0, said=1),
            Outcome("segment", False, False, there=2, said=3, mask_iou=1.8),
        ]
    )
    assert found["answers"] == found["answers: colour"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["answers about held-out"] == 0
    assert found["answers: text"] is None
    assert found["captions"] == 1
    assert found["detection F1 at IoU 0.5"] == pytest.approx(4 / 6, abs=1e-4)
    assert found["detection mean IoU"] == 0.6
    assert found["mask mean IoU"] == 0.6  # one said too many
    assert found["prompts"] == 7

"""Detections: run lengths, masks, drawing, and the commands `detect` and `segment`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from command_line import run_in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image

from paligemma_onnx.runtime import Box, Detections, ImageError, Mask, NumericsError, PaliGemma, PromptError
from paligemma_onnx.runtime.detection.detections import detections
from paligemma_onnx.runtime.detection.drawing import COLOURS, draw
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.detection.rle import encode
from training.evaluate import SEEN_SPLIT, prompts_for
from training.scenes import SCENE_SIDE, render_scene
from training.scores import score_answer, summarize

# raised by pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SCENES = 40
MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20)))
BOX = Box(0.25, 0.125, 0.75, 0.5)


@pytest.fixture(scope="module")
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


def segmented(model: PaliGemma, seed: int) -> Detections:
    """Segment the objects of a scene."""
    drawing = render_scene(seed)
    (prompt,) = [asked.example.prompt for asked in prompts_for(drawing) if asked.example.kind == "segment"]
    return model.segment(Image.fromarray(drawing.pixels), prompt.removeprefix("segment "))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(MASKS)
def test_run_lengths_are_cocos(mask: NDArray[np.bool_]) -> None:
    actual, expected = encode(mask), pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert actual["counts"] == expected["counts"].decode()
    assert actual["size"] == expected["size"]
    stored = json.loads(json.dumps(actual))  # as --json prints it
    assert np.array_equal(pycocotools.mask.decode(stored), mask)


def test_long_runs_are_cocos() -> None:
    """Numbers of several characters, differences of both signs, a mask that starts inside."""
    mask = np.zeros((3000, 2000), np.bool_)
    mask[100:2900, 30:1990] = True
    mask[0, 0] = True
    assert np.array_equal(pycocotools.mask.decode(encode(mask)), mask)
    assert np.array_equal(pycocotools.mask.decode(encode(~mask)), ~mask)


def test_a_mask_lies_in_its_box() -> None:
    levels = np.full((64, 64), -1, np.float32)
    levels[:, 32:] = 1  # the right half
    mask = Mask(levels, BOX, width=80, height=40)
    right = np.zeros((40, 80), np.bool_)
    right[10:30, 25:40] = True
    assert np.array_equal(mask.array, right)
    file = Image.open(io.BytesIO(mask.png))
    assert (file.format, file.mode) == ("PNG", "1")
    assert np.array_equal(np.asarray(file), right)
    assert np.array_equal(pycocotools.mask.decode(mask.rle), right)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (7, 3)])
def test_a_mask_in_a_tiny_image(size: tuple[int, int]) -> None:
    mask = Mask(np.ones((64, 64), np.float32), BOX, *size)
    assert mask.array.shape == size[::-1]
    assert np.array_equal(pycocotools.mask.decode(mask.rle), mask.array)


@pytest.mark.slow
def test_boxes_and_masks_of_the_shipped_model(model: PaliGemma) -> None:
    """Scores of the evaluation through `detect` and `segment`; the limits allow for the few scenes."""
    outcomes = []
    for seed in range(SEEN_SPLIT.first, SEEN_SPLIT.first + SCENES):
        for asked in prompts_for(render_scene(seed)):
            task, _, labels = asked.example.prompt.partition(" ")
            if task not in ("detect", "segment"):
                continue
            ask = model.detect if task == "detect" else model.segment
            found = ask(Image.fromarray(asked.rendered.pixels), labels)
            outcomes.append(score_answer(asked.rendered, asked.example, found.text, found))
    figures = summarize(outcomes)
    print({name: value for name, value in figures.items() if value is not None})
    f1, iou = figures["detection F1 at IoU 0.5"], figures["mask mean IoU"]
    assert f1 is not None
    assert iou is not None
    assert f1 >= 0.88
    assert iou >= 0.75


def test_what_comes_back(model: PaliGemma) -> None:
    found = segmented(model, SEEN_SPLIT.first)
    assert isinstance(found, Detections)
    assert len(found) == len(parse_answer(found.text).objects) >= 1
    first = found[0]
    assert first.mask is not None
    left, top, right, bottom = first.pixels
    assert 0 <= left < right <= SCENE_SIDE
    assert 0 <= top < bottom <= SCENE_SIDE
    rows, columns = np.nonzero(first.mask.array)
    assert left - 1 <= columns.min() < columns.max() <= right
    assert top - 1 <= rows.min() < rows.max() <= bottom
    assert json.loads(json.dumps(found.as_json()))["objects"][0]["label"] == first.label
    with pytest.raises(AttributeError):
        first.label = "other"  # type: ignore[misc]
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert (shown.format, shown.size) == ("PNG", (SCENE_SIDE, SCENE_SIDE))


def test_a_turned_photograph_is_answered_as_it_is_displayed(model: PaliGemma, tmp_path: Path) -> None:
    """The pixels are stored rotated, with an EXIF orientation."""
    drawing = render_scene(SEEN_SPLIT.first)
    upright = Image.fromarray(drawing.pixels).resize((448, 300), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate by 90 degrees clockwise to display
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected, turned = (model.segment(tmp_path / name, "circle") for name in ("upright.png", "turned.png"))
    assert (turned.width, turned.height) == (448, 300)
    assert turned.text == expected.text
    assert [detection.pixels for detection in turned] == [detection.pixels for detection in expected]
    assert np.array_equal(np.asarray(turned.drawn()), np.asarray(expected.drawn()))


@pytest.mark.parametrize("labels", ["", " ; ", [], ["", " "]])
def test_nothing_to_find(model: PaliGemma, labels: Any) -> None:
    with pytest.raises(PromptError, match="no label to detect was given"):
        model.detect(np.zeros((4, 4, 3), np.uint8), labels)


def test_labels_and_images_of_every_kind(model: PaliGemma) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    ways: tuple[Any, ...] = ("a ; b", "a;b", ["a", "b"])
    lengths = {model.detect(image, labels).generation.prompt_tokens for labels in ways}
    assert len(lengths) == 1
    with pytest.raises(ImageError):
        model.detect("absent.png", "cat")
    for wrong in ([1], None, 5, True, {"cat": 1}):
        labels: Any = wrong
        with pytest.raises(PromptError, match="must be text"):
            model.detect(image, labels)
    with pytest.raises(PromptError, match="contains a semicolon"):
        model.detect(image, ["a ; b", "c"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (20, 15), (1, 3000), (2000, 1500)])
@pytest.mark.parametrize("label", ["cat", "", "longer than any image " * 500, "\N{CAT}\n\u202e"])
def test_drawing_keeps_the_resolution(model: PaliGemma, size: tuple[int, int], label: str) -> None:
    image = Image.new("RGB", size, (90, 90, 90))
    found = segmented(model, SEEN_SPLIT.first)
    objects = [
        type(found[0])(label, box, box.pixels(*size), found[0].mask)
        for box in (BOX, Box(0, 0, 1, 1), Box(0.999, 0.999, 1, 1))
    ] * 4
    drawn = draw(image, objects)
    assert drawn.size == size
    assert drawn.mode == "RGB"
    assert np.asarray(image).max() == 90  # the original stays as it was
    assert np.asarray(drawn).max() > 90


def test_neighbouring_colours_differ() -> None:
    colours = np.array(COLOURS, float)
    for colour, previous in zip(colours, np.roll(colours, 1, axis=0), strict=True):
        assert np.linalg.norm(colour - previous) > 80


@pytest.mark.slow
def test_the_commands(
    capsys: pytest.CaptureFixture[str], shipped_bundle: Path, model: PaliGemma, tmp_path: Path
) -> None:
    scene, drawn = ROOT / "export" / "demo" / "scene.png", tmp_path / "found.png"
    given = ("--model", shipped_bundle, "--image", scene, "--device", "cpu")
    lines = run_in_process(capsys, "segment", *given, "--draw", drawn, "blue ring")
    assert lines.code == 0
    (ring,) = model.segment(scene, "blue ring")
    assert ring.mask is not None
    expected = ["blue ring", *(f"{edge:.1f}" for edge in ring.pixels), str(ring.mask.array.sum())]
    assert lines.out.splitlines() == ["\t".join(expected)]
    with Image.open(drawn) as drawing, Image.open(scene) as original:
        assert drawing.size == original.size
    assert [file.name for file in tmp_path.iterdir()] == ["found.png"]

    whole = json.loads(run_in_process(capsys, "segment", *given, "--json", "blue ring").out)
    assert whole["objects"][0]["box"] == pytest.approx(ring.pixels)
    assert np.array_equal(pycocotools.mask.decode(whole["objects"][0]["mask"]), ring.mask.array)
    assert (whole["width"], whole["height"], whole["finish_reason"]) == (SCENE_SIDE, SCENE_SIDE, "stop")
    boxes = json.loads(
        run_in_process(capsys, "detect", *given, "--json", "--constrained", "circle ; star").out
    )
    assert [found["mask"] for found in boxes["objects"]] == [None] * len(boxes["objects"])
    assert run_in_process(capsys, "detect", *given, "purple elephant").out.count("\n") <= 1


@pytest.mark.parametrize(
    ("draw_to", "message"),
    [
        ("absent/found.png", "No such file or directory"),
        ("found.tiff", "the file name must end in"),
        (".", "is a directory"),
        ("fifo.png", "cannot be written (not a regular file)"),
        (f"{'a' * 300}.png", "File name too long"),
    ],
)
def test_an_image_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], shipped_bundle: Path, tmp_path: Path, draw_to: str, message: str
) -> None:
    """The output is refused before the input is opened, which does not exist."""
    os.mkfifo(tmp_path / "fifo.png")
    given = ("--model", shipped_bundle, "--image", "absent.png", "--draw", tmp_path / draw_to)
    ended = run_in_process(capsys, "detect", *given, "cat")
    assert ended.code == 2
    assert message in ended.error
    assert [file.name for file in tmp_path.iterdir()] == ["fifo.png"]


@pytest.mark.parametrize(("suffix", "side"), [("webp", 20_000), ("jpg", 70_000)])
def test_an_image_too_large_for_its_format(
    capsys: pytest.CaptureFixture[str], shipped_bundle: Path, tmp_path: Path, suffix: str, side: int
) -> None:
    """The detections are printed nevertheless."""
    Image.new("RGB", (side, 10), "white").save(tmp_path / "wide.png")
    given = ("--model", shipped_bundle, "--image", tmp_path / "wide.png", "--device", "cpu", "--json")
    ended = run_in_process(capsys, "detect", *given, "--draw", tmp_path / f"found.{suffix}", "circle")
    assert ended.code == 2
    assert f"pixels per side, the image has {side}" in ended.error
    assert json.loads(ended.out)["width"] == side
    assert [file.name for file in tmp_path.iterdir()] == ["wide.png"]


def test_a_long_name_and_a_link(
    capsys: pytest.CaptureFixture[str], shipped_bundle: Path, tmp_path: Path
) -> None:
    longest, link = tmp_path / f"{'a' * 251}.png", tmp_path / "link.png"
    link.symlink_to(tmp_path / "target.png")
    given = ("--model", shipped_bundle, "--image", ROOT / "export" / "demo" / "scene.png", "--device", "cpu")
    for path in (longest, link):
        assert run_in_process(capsys, "detect", *given, "--draw", path, "circle").code == 0
        with Image.open(path) as image:
            assert image.size == (SCENE_SIDE, SCENE_SIDE)
    assert link.is_symlink()


def test_masks_that_are_no_numbers(model: PaliGemma) -> None:
    runner: Any = SimpleNamespace(decode_masks=lambda tokens, _: np.full((len(tokens), 64, 64), np.nan))
    found = segmented(model, SEEN_SPLIT.first)
    with pytest.raises(NumericsError, match="the mask decoder computed NaN or infinity"):
        detections(found.generation, found.image, runner, model.tokenizer, masks=True)

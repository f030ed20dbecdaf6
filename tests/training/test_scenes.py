"""Properties of generated scenes: reproducible pixels, correct boxes and masks, held-out pairs left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma_onnx.model.mask_decoder import SIDE
from paligemma_onnx.runtime.detection.masks import paste
from training.mask_codes import crop_mask, unpack_masks
from training.rendered_dataset import open_dataset
from training.scenes import MAX_SIDE, MIN_CENTRE_DISTANCE, SCENE_SIDE, RenderedScene, Split, render_scene
from training.shapes import render_shape
from training.vocabulary import COLOURS, HELD_OUT_PAIRS, MAX_NUMBER, MAX_TINT, SHAPES, TEXTURES, WORDS

SEEN = [render_scene(seed) for seed in range(150)]
HELD_OUT = [render_scene(seed, "held-out") for seed in range(60)]
ALL = [*SEEN, *HELD_OUT]
MAX_NOISE = 12  # levels that noise adds at most

# SHA-256 of the pixels of seeds 1, 20 and 300, which must be the same on every machine.
DIGESTS = {
    1: "9cdf04a0b68425d6bfd327ef15ae05f4aa71212884d9e407223dbae726b68593",
    20: "921100187424197cf1f1af8fcc509f607439d0cf60ab73b4b063f716b9f77436",
    300: "05ba5861b6c4e63b942406671c824a6c23c8066815300153298b8d6939a4b6e9",
}


@pytest.mark.parametrize("seed", DIGESTS)
def test_a_seed_is_one_image(seed: int) -> None:
    assert hashlib.sha256(render_scene(seed).pixels.tobytes()).hexdigest() == DIGESTS[seed]


def test_training_never_shows_a_held_out_pair() -> None:
    pairs = Counter((item.colour, item.shape) for rendered in SEEN for item in rendered.scene.items)
    assert not HELD_OUT_PAIRS & pairs.keys()
    assert len(pairs) > 0.9 * (len(COLOURS) * len(SHAPES) - len(HELD_OUT_PAIRS))


def test_each_half_of_a_held_out_pair_is_shown() -> None:
    colours, shapes = ({pair[half] for pair in HELD_OUT_PAIRS} for half in (0, 1))
    for attribute, values in (("colour", colours), ("shape", shapes)):
        counts = Counter(getattr(item, attribute) for rendered in SEEN for item in rendered.scene.items)
        assert min(counts[value] for value in values) > 20


def test_a_held_out_scene_has_a_held_out_pair() -> None:
    assert all(any(item.is_held_out for item in rendered.scene.items) for rendered in HELD_OUT)


def test_everything_of_the_vocabulary_occurs() -> None:
    items = [item for rendered in ALL for item in rendered.scene.items]
    assert {item.texture for item in items} == set(TEXTURES)
    assert {len(rendered.scene.items) for rendered in ALL} == {1, 2, 3, 4, 5}
    signs = [rendered.scene.sign for rendered in ALL if rendered.scene.sign is not None]
    assert 0.2 < len(signs) / len(ALL) < 0.5
    assert {sign for sign in signs if not sign.isdigit()} <= set(WORDS)
    assert all(int(sign) <= MAX_NUMBER for sign in signs if sign.isdigit())


@pytest.mark.parametrize("rendered", ALL, ids=lambda rendered: str(rendered.scene.seed))
def test_boxes_are_those_of_the_masks(rendered: RenderedScene) -> None:
    for item, mask in zip(rendered.scene.items, rendered.masks, strict=True):
        y, x = np.nonzero(mask)
        assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert np.sum(rendered.masks, axis=0).max() == 1  # a pixel belongs to at most one object


@pytest.mark.parametrize("rendered", ALL, ids=lambda rendered: str(rendered.scene.seed))
def test_left_and_right_are_never_in_doubt(rendered: RenderedScene) -> None:
    centres = [item.centre[0] for item in rendered.scene.items]
    assert all(np.diff(centres) >= MIN_CENTRE_DISTANCE)


@pytest.mark.parametrize("rendered", SEEN, ids=lambda rendered: str(rendered.scene.seed))
def test_masks_cover_what_has_the_colour(rendered: RenderedScene) -> None:
    for item, mask in zip(rendered.scene.items, rendered.masks, strict=True):
        if item.texture == "plain":
            median = np.median(rendered.pixels[mask], axis=0)
            assert np.abs(median - COLOURS[item.colour]).max() <= MAX_TINT + MAX_NOISE


def test_objects_of_one_colour_do_not_overlap() -> None:
    for rendered in ALL:
        for i, item in enumerate(rendered.scene.items):
            for other in rendered.scene.items[:i]:
                if item.colour == other.colour:
                    a, b = item.box, other.box
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_some_objects_are_partly_covered() -> None:
    assert any(
        rendered.masks[i][b[1] : b[3], b[0] : b[2]].mean() < 0.55
        for rendered in SEEN
        for i, item in enumerate(rendered.scene.items)
        for b in [item.box]
        if item.shape in ("square", "circle")
    )


def test_areas_are_those_of_geometry() -> None:
    side = MAX_SIDE
    area = {shape: render_shape(shape, side, 0.2).sum() / 255 for shape in SHAPES}
    assert area["square"] == pytest.approx(side**2, rel=0.03)
    assert area["circle"] == pytest.approx(np.pi * side**2 / 4, rel=0.03)
    assert area["ring"] == pytest.approx(np.pi * side**2 / 4 * (1 - 0.5**2), rel=0.03)
    assert area["cross"] == pytest.approx(side**2 * (2 * 0.36 - 0.36**2), rel=0.04)
    assert area["triangle"] == pytest.approx(2.1 * 1.9 / 2 * side**2 / 4, rel=0.03)


def test_a_crop_goes_back_where_it_came_from() -> None:
    """A cropped mask, pasted into its box, covers nearly the same pixels as before."""
    for rendered in SEEN[:20]:
        for item, mask in zip(rendered.scene.items, rendered.masks, strict=True):
            crop = crop_mask(mask, item.box)
            assert crop.shape == (SIDE, SIDE)
            pasted = paste(np.where(crop, 1, -1).astype(np.float32), item.box, SCENE_SIDE, SCENE_SIDE)
            assert (pasted & mask).sum() / (pasted | mask).sum() > 0.93


def test_a_mask_outside_the_image_is_cut() -> None:
    full = np.ones((SIDE, SIDE), np.float32)
    assert paste(full, (-5.0, -5.0, 3.0, 4.0), 10, 10).sum() == 12
    assert not paste(full, (12.0, 2.0, 20.0, 4.0), 10, 10).any()


def test_a_dataset_holds_the_scenes(tmp_path: Path) -> None:
    counts: list[int] = []
    split = Split(5, 9)
    rendered_now = open_dataset(tmp_path, split, 112, 2, counts.append)
    assert sum(counts) == 9
    read_from_disk = open_dataset(tmp_path, split, 112, 2, counts.append)
    assert sum(counts) == 9  # not rendered again
    for dataset in (rendered_now, read_from_disk):
        for index, seed in enumerate(split.seeds()):
            rendered = render_scene(seed)
            assert dataset.scenes[index] == rendered.scene
            resized = Image.fromarray(rendered.pixels).resize((112, 112), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(dataset.pixels[index], np.asarray(resized))
            start = dataset.first_item[index]
            masks = unpack_masks(dataset.packed_masks[start : start + len(rendered.masks)])
            expected = [
                crop_mask(mask, item.box)
                for mask, item in zip(rendered.masks, rendered.scene.items, strict=True)
            ]
            np.testing.assert_array_equal(masks, expected)

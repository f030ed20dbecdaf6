"""Scenes are what they say: the same everywhere, their boxes and masks true, held-out pairs held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.masks import CROP, crop, paste
from training.rendered_dataset import Split, open_album, unpacked
from training.scenes import APART, LARGEST, SIDE, Drawing, draw
from training.shapes import coverage
from training.vocabulary import COLOURS, HELD_OUT, LARGEST_NUMBER, SHAPES, TEXTURES, TINT, WORDS

SEEN = [draw(seed) for seed in range(150)]
HELD = [draw(seed, "held-out") for seed in range(60)]
EVERY = [*SEEN, *HELD]
NOISE = 12  # levels, most that noise adds

# Of the pixels of seeds 1, 20 and 300: what every machine must draw.
DIGESTS = {
    1: "9cdf04a0b68425d6bfd327ef15ae05f4aa71212884d9e407223dbae726b68593",
    20: "921100187424197cf1f1af8fcc509f607439d0cf60ab73b4b063f716b9f77436",
    300: "05ba5861b6c4e63b942406671c824a6c23c8066815300153298b8d6939a4b6e9",
}


@pytest.mark.parametrize("seed", DIGESTS)
def test_a_seed_is_one_picture(seed: int) -> None:
    assert hashlib.sha256(draw(seed).pixels.tobytes()).hexdigest() == DIGESTS[seed]


def test_training_never_shows_a_held_out_pair() -> None:
    pairs = Counter((item.colour, item.shape) for one in SEEN for item in one.scene.items)
    assert not HELD_OUT & pairs.keys()
    assert len(pairs) > 0.9 * (len(COLOURS) * len(SHAPES) - len(HELD_OUT))


def test_each_half_of_a_held_out_pair_is_shown() -> None:
    colours, shapes = ({pair[part] for pair in HELD_OUT} for part in (0, 1))
    for part, halves in (("colour", colours), ("shape", shapes)):
        shown = Counter(getattr(item, part) for one in SEEN for item in one.scene.items)
        assert min(shown[half] for half in halves) > 20


def test_a_held_out_scene_has_a_held_out_pair() -> None:
    assert all(any(item.is_held_out for item in one.scene.items) for one in HELD)


def test_everything_of_the_vocabulary_occurs() -> None:
    items = [item for one in EVERY for item in one.scene.items]
    assert {item.texture for item in items} == set(TEXTURES)
    assert {len(one.scene.items) for one in EVERY} == {1, 2, 3, 4, 5}
    signs = [one.scene.sign for one in EVERY if one.scene.sign is not None]
    assert 0.2 < len(signs) / len(EVERY) < 0.5
    assert {sign for sign in signs if not sign.isdigit()} <= set(WORDS)
    assert all(int(sign) <= LARGEST_NUMBER for sign in signs if sign.isdigit())


@pytest.mark.parametrize("one", EVERY, ids=lambda one: str(one.scene.seed))
def test_boxes_are_those_of_the_masks(one: Drawing) -> None:
    for item, mask in zip(one.scene.items, one.masks, strict=True):
        y, x = np.nonzero(mask)
        assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert np.sum(one.masks, axis=0).max() == 1  # a pixel shows one object


@pytest.mark.parametrize("one", EVERY, ids=lambda one: str(one.scene.seed))
def test_left_and_right_are_never_in_doubt(one: Drawing) -> None:
    centres = [item.centre[0] for item in one.scene.items]
    assert all(np.diff(centres) >= APART)


@pytest.mark.parametrize("one", SEEN, ids=lambda one: str(one.scene.seed))
def test_masks_cover_what_has_the_colour(one: Drawing) -> None:
    for item, mask in zip(one.scene.items, one.masks, strict=True):
        if item.texture == "plain":
            middle = np.median(one.pixels[mask], axis=0)
            assert np.abs(middle - COLOURS[item.colour]).max() <= TINT + NOISE


def test_objects_of_one_colour_do_not_overlap() -> None:
    for one in EVERY:
        for i, item in enumerate(one.scene.items):
            for other in one.scene.items[:i]:
                if item.colour == other.colour:
                    a, b = item.box, other.box
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_some_objects_are_partly_covered() -> None:
    assert any(
        one.masks[i][b[1] : b[3], b[0] : b[2]].mean() < 0.55
        for one in SEEN
        for i, item in enumerate(one.scene.items)
        for b in [item.box]
        if item.shape in ("square", "circle")
    )


def test_areas_are_those_of_geometry() -> None:
    side = LARGEST
    area = {shape: coverage(shape, side, 0.2).sum() / 255 for shape in SHAPES}
    assert area["square"] == pytest.approx(side**2, rel=0.03)
    assert area["circle"] == pytest.approx(np.pi * side**2 / 4, rel=0.03)
    assert area["ring"] == pytest.approx(np.pi * side**2 / 4 * (1 - 0.5**2), rel=0.03)
    assert area["cross"] == pytest.approx(side**2 * (2 * 0.36 - 0.36**2), rel=0.04)
    assert area["triangle"] == pytest.approx(2.1 * 1.9 / 2 * side**2 / 4, rel=0.03)


def test_a_crop_goes_back_where_it_came_from() -> None:
    for one in SEEN[:20]:
        for item, mask in zip(one.scene.items, one.masks, strict=True):
            cut = crop(mask, item.box)
            assert cut.shape == (CROP, CROP)
            back = paste(np.where(cut, 1, -1).astype(np.float32), item.box, SIDE, SIDE)
            assert (back & mask).sum() / (back | mask).sum() > 0.93


def test_a_mask_outside_the_picture_is_cut() -> None:
    whole = np.ones((CROP, CROP), np.float32)
    assert paste(whole, (-5.0, -5.0, 3.0, 4.0), 10, 10).sum() == 12
    assert not paste(whole, (12.0, 2.0, 20.0, 4.0), 10, 10).any()


def test_an_album_holds_the_scenes(tmp_path: Path) -> None:
    drawn: list[int] = []
    folder, split = tmp_path, Split(5, 9)
    first = open_album(folder, split, 112, 2, drawn.append)
    assert sum(drawn) == 9
    again = open_album(folder, split, 112, 2, drawn.append)
    assert sum(drawn) == 9  # read, not drawn
    for album in (first, again):
        for index, seed in enumerate(split.seeds()):
            one = draw(seed)
            assert album.scenes[index] == one.scene
            small = Image.fromarray(one.pixels).resize((112, 112), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(album.pixels[index], np.asarray(small))
            start = album.first_item[index]
            masks = unpacked(album.crops[start : start + len(one.masks)])
            np.testing.assert_array_equal(
                masks, [crop(mask, item.box) for mask, item in zip(one.masks, one.scene.items, strict=True)]
            )

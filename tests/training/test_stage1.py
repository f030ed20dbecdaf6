"""Stage 1: whose text is whose, where objects are, the loss in NumPy, and a white patch embedding."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from paligemma_onnx.model.paligemma import PaliGemma
from training.contrastive_model import Contrast, Seen, Texts, TextTower
from training.initialization import fresh_model, whiten_patches
from training.pictures import pixel_values
from training.prefix_lm import Ids
from training.recipe import small_config
from training.scenes import SIDE, Item, draw
from training.stage1 import area, look, texts_of
from training.tasks import described, description
from training.tokenizer import train_tokenizer

DRAWN = [draw(seed) for seed in range(60)]
SCENES = [one.scene for one in DRAWN]
TOKENS, GRID = 56, 8


@cache
def ids() -> Ids:
    return Ids.of(train_tokenizer(SCENES))


@cache
def model() -> PaliGemma:
    torch.manual_seed(0)
    return fresh_model(small_config(ids().image), ids().first_location)


def pixels(count: int) -> torch.Tensor:
    return pixel_values(np.stack([one.pixels[::2, ::2] for one in DRAWN[:count]])).float()


def texts(count: int) -> Texts:
    return texts_of(SCENES[:count], ids(), TOKENS)


def test_a_box_is_shared_among_patches() -> None:
    side = SIDE // GRID
    corner = Item("red", "ring", "plain", (0, 0, side, side))
    assert area(corner, GRID).tolist() == [1.0] + [0.0] * 63
    # Half of its width in the first column of patches, half in the second; a quarter and three down.
    across = Item("red", "ring", "plain", (side // 2, side * 3 // 4, side * 3 // 2, side * 7 // 4))
    shares = area(across, GRID).reshape(GRID, GRID)
    np.testing.assert_allclose(shares[:2, :2], [[1 / 8, 1 / 8], [3 / 8, 3 / 8]])
    for scene in SCENES:
        for item in scene.items:
            assert area(item, GRID).sum() == pytest.approx(1)


def test_everyone_has_their_text() -> None:
    found = texts(20)
    assert all(rows.shape[1] == TOKENS for rows in found.ids)
    assert all((rows[:, -1] == ids().pad).all() for rows in found.ids)  # nothing was cut

    def said(group: int, number: int) -> str:
        text: str = ids().tokenizer.decode(found.ids[group][found.own[group][number]].tolist())
        return text.strip()

    objects = [item for scene in SCENES[:20] for item in scene.items]
    signs = [scene.sign for scene in SCENES[:20] if scene.sign is not None]
    assert [said(0, row) for row in range(20)] == [description(scene) for scene in SCENES[:20]]
    assert [said(1, row) for row in range(len(objects))] == [described(item) for item in objects]
    assert [said(2, row).split()[-1] for row in range(len(signs))] == signs
    phrases = found.ids[1].tolist()
    assert len(phrases) == len({tuple(row) for row in phrases}) < len(objects)  # a phrase of several is one


def test_where_things_are() -> None:
    seen = look(pixels(20), SCENES[:20], GRID)
    assert seen.pictures.tolist() == [i for i, scene in enumerate(SCENES[:20]) for _ in scene.items]
    assert seen.printed.tolist() == [i for i, scene in enumerate(SCENES[:20]) if scene.sign is not None]
    assert seen.areas.shape == (len(seen.pictures), GRID**2)


def test_the_tokenizer_makes_words_of_words() -> None:
    pieces = ids().tokenizer.encode("a striped red circle at the top left", add_special_tokens=False).tokens
    assert pieces == ["a", *(f"▁{word}" for word in ["striped", "red", "circle", "at", "the", "top", "left"])]
    digits = ids().tokenizer.encode("the number 42", add_special_tokens=False).tokens
    assert digits[-2:] == ["4", "2"]


@pytest.mark.parametrize("chunk", [None, 4])
@torch.no_grad()
def test_the_loss_is_numpy(chunk: int | None) -> None:
    config = model().config
    size = config.vision_config
    torch.manual_seed(1)
    text = TextTower(config.text_config.vocab_size, TOKENS, 64, 1, size.hidden_size)
    contrast = Contrast(model().vision_tower, size, text)
    seen: Seen = look(pixels(12), SCENES[:12], GRID)
    expected, found = 0.0, []
    for one in contrast(seen, texts(12)):
        images, captions = one.images.double().numpy(), one.texts.double().numpy()
        cosines = images @ captions.T
        cosines /= np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(captions, axis=1)
        signs = np.where(one.own.numpy()[:, None] == np.arange(len(captions)), 1, -1)
        logits = 10 * cosines - 10  # temperature and bias at the start
        expected -= log_expit(signs * logits).sum() / len(images)
        found.append((cosines.argmax(axis=1) == one.own.numpy()).mean())
    assert float(contrast.loss(seen, texts(12), chunk)) == pytest.approx(expected, rel=1e-5)
    assert contrast.found(seen, texts(12)) == pytest.approx(found)


@torch.no_grad()
def test_a_whitened_embedding_has_no_favourites() -> None:
    whiten_patches(model(), pixels(40))
    seen = model().vision_tower.embeddings.patch_embedding(pixels(40)).flatten(0, 1)
    correlations = np.corrcoef(seen.T.numpy())
    assert float(seen.mean(dim=0).abs().max()) < 1e-3
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.05
    # The strongest components come out with size 1, weak ones smaller, so that noise stays small.
    sizes = seen.std(dim=0)
    assert float(sizes.max()) == pytest.approx(1, abs=0.05)
    assert float(sizes.min()) > 0.2

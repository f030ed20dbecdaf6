"""Stage 1: texts of images and objects, positions of objects, SigLIP's loss in NumPy, whitened patches."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from paligemma_onnx.model.paligemma import PaliGemma
from training.contrastive_model import ContrastiveModel, TextBatch, TextTower
from training.initialization import initial_model, whiten_patches
from training.prefix_lm import TrainingTokenizer
from training.recipe import small_config
from training.rendered_dataset import pixel_values
from training.scenes import SCENE_SIDE, Item, render_scene
from training.stage1 import image_batch, patch_shares, text_batch
from training.tasks import make_description, object_phrase
from training.tokenizer import train_tokenizer

RENDERED = [render_scene(seed) for seed in range(60)]
SCENES = [rendered.scene for rendered in RENDERED]
TOKENS, GRID = 56, 8


@cache
def tokenizer() -> TrainingTokenizer:
    return TrainingTokenizer.from_tokenizer(train_tokenizer(SCENES))


@cache
def model() -> PaliGemma:
    torch.manual_seed(0)
    return initial_model(small_config(tokenizer().image), tokenizer().first_location)


def pixels(count: int) -> torch.Tensor:
    images = np.stack([rendered.pixels[::2, ::2] for rendered in RENDERED[:count]])
    return pixel_values(images).float()


def texts(count: int) -> TextBatch:
    return text_batch(SCENES[:count], tokenizer(), TOKENS)


def test_a_box_is_shared_among_patches() -> None:
    side = SCENE_SIDE // GRID
    corner = Item("red", "ring", "plain", (0, 0, side, side))
    assert patch_shares(corner, GRID).tolist() == [1.0] + [0.0] * 63
    # Each of the first two columns of patches has half of the width; the first two rows have 1/4 and 3/4 of
    # the height.
    across = Item("red", "ring", "plain", (side // 2, side * 3 // 4, side * 3 // 2, side * 7 // 4))
    shares = patch_shares(across, GRID).reshape(GRID, GRID)
    np.testing.assert_allclose(shares[:2, :2], [[1 / 8, 1 / 8], [3 / 8, 3 / 8]])
    for scene in SCENES:
        for item in scene.items:
            assert patch_shares(item, GRID).sum() == pytest.approx(1)


def test_everyone_has_their_text() -> None:
    batch = texts(20)
    assert all(rows.shape[1] == TOKENS for rows in batch.ids)
    assert all((rows[:, -1] == tokenizer().pad).all() for rows in batch.ids)  # no text was cut

    def target_text(group: int, index: int) -> str:
        ids = batch.ids[group][batch.targets[group][index]].tolist()
        text: str = tokenizer().tokenizer.decode(ids)
        return text.strip()

    objects = [item for scene in SCENES[:20] for item in scene.items]
    signs = [scene.sign for scene in SCENES[:20] if scene.sign is not None]
    assert [target_text(0, i) for i in range(20)] == [make_description(scene) for scene in SCENES[:20]]
    assert [target_text(1, i) for i in range(len(objects))] == [object_phrase(item) for item in objects]
    assert [target_text(2, i).split()[-1] for i in range(len(signs))] == signs
    phrases = batch.ids[1].tolist()
    # Objects with the same phrase share a row.
    assert len(phrases) == len({tuple(row) for row in phrases}) < len(objects)


def test_where_things_are() -> None:
    batch, scenes = image_batch(pixels(20), SCENES[:20], GRID), SCENES[:20]
    assert batch.object_images.tolist() == [i for i, scene in enumerate(scenes) for _ in scene.items]
    assert batch.sign_images.tolist() == [i for i, scene in enumerate(scenes) if scene.sign is not None]
    assert batch.object_patches.shape == (len(batch.object_images), GRID**2)


def test_the_tokenizer_makes_words_of_words() -> None:
    """Each word is one token, and a number has one token per digit."""
    encode = tokenizer().tokenizer.encode
    tokens = encode("a striped red circle at the top left", add_special_tokens=False).tokens
    assert tokens == ["a", *(f"▁{word}" for word in ["striped", "red", "circle", "at", "the", "top", "left"])]
    assert encode("the number 42", add_special_tokens=False).tokens[-2:] == ["4", "2"]


@pytest.mark.parametrize("chunk", [None, 4])
@torch.no_grad()
def test_the_loss_is_numpy(chunk: int | None) -> None:
    config = model().config
    sizes = config.vision_config
    torch.manual_seed(1)
    text_tower = TextTower(config.text_config.vocab_size, TOKENS, 64, 1, sizes.hidden_size)
    contrastive = ContrastiveModel(model().vision_tower, sizes, text_tower)
    batch = image_batch(pixels(12), SCENES[:12], GRID)
    expected, accuracy = 0.0, []
    for pairs in contrastive(batch, texts(12)):
        images, captions = pairs.images.double().numpy(), pairs.texts.double().numpy()
        cosines = images @ captions.T
        cosines /= np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(captions, axis=1)
        signs = np.where(pairs.targets.numpy()[:, None] == np.arange(len(captions)), 1, -1)
        logits = 10 * cosines - 10  # initial temperature and bias
        expected -= log_expit(signs * logits).sum() / len(images)
        accuracy.append((cosines.argmax(axis=1) == pairs.targets.numpy()).mean())
    assert float(contrastive.loss(batch, texts(12), chunk)) == pytest.approx(expected, rel=1e-5)
    assert contrastive.accuracy(batch, texts(12)) == pytest.approx(accuracy)


@torch.no_grad()
def test_a_whitened_embedding_has_no_favourites() -> None:
    """The outputs of a whitened patch embedding are uncorrelated with zero mean."""
    whiten_patches(model(), pixels(40))
    embedded = model().vision_tower.embeddings.patch_embedding(pixels(40)).flatten(0, 1)
    correlations = np.corrcoef(embedded.T.numpy())
    assert float(embedded.mean(dim=0).abs().max()) < 1e-3
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.05
    # The strongest components have unit variance; weak ones have less, so that their noise stays small.
    deviations = embedded.std(dim=0)
    assert float(deviations.max()) == pytest.approx(1, abs=0.05)
    assert float(deviations.min()) > 0.2

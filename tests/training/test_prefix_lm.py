"""The training pass gives the logits of prefill and decode steps, and its loss equals a NumPy computation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sample_tokenizer import build_sample_tokenizer
from scipy.special import log_softmax
from scipy.stats import entropy

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.presets import tiny_gemma
from training.initialization import grid_waves, initial_model, smooth_rows
from training.loop import learning_rate
from training.prefix_lm import TrainingTokenizer, answer_logits, answer_loss, collate, training_mask
from training.recipe import FULL, Schedule, max_objects_at
from training.tasks import LOCATIONS, Example

EXAMPLES = [
    Example("caption", "caption en", "a red circle and a blue square"),
    Example("count", "answer en how many shapes are there?", "two"),
    Example("detect", "detect circle", "<loc0003><loc0700><loc0100><loc1000> circle"),
    Example("detect", "detect star", ""),  # EOS is the only target
]


@cache
def tokenizer() -> TrainingTokenizer:
    return TrainingTokenizer.from_tokenizer(build_sample_tokenizer(600))


@cache
def model(kv_heads: int) -> PaliGemma:
    torch.manual_seed(0)
    tiny = tiny_gemma(kv_heads)
    text = replace(tiny.text_config, vocab_size=tokenizer().image + 8)
    config = PaliGemmaConfig(tiny.vision_config, text, tokenizer().image)
    return initial_model(config, tokenizer().first_location)


def image_features(kv_heads: int) -> torch.Tensor:
    side = model(kv_heads).config.vision_config.image_size
    pixels = torch.randn(len(EXAMPLES), 3, side, side, generator=torch.Generator().manual_seed(1))
    return model(kv_heads).encode_image(pixels)


def test_a_batch() -> None:
    batch = collate(EXAMPLES, tokenizer(), 16)
    answers = [tokenizer().encode([example.suffix])[0] for example in EXAMPLES]
    assert batch.targets.tolist() == [token for answer in answers for token in (*answer, tokenizer().eos)]
    assert batch.rows.tolist() == [row for row, answer in enumerate(answers) for _ in (*answer, None)]
    for row, example in enumerate(EXAMPLES):
        prefix = tokenizer().tokenizer.decode(batch.input_ids[row, : batch.prefix[row]].tolist())
        assert prefix == f"{example.prompt}\n"
        # The weights of a row with n targets add up to sqrt(n).
        assert float(batch.weights[batch.rows == row].sum()) == pytest.approx((len(answers[row]) + 1) ** 0.5)


@pytest.mark.parametrize("kv_heads", [1, 2])
@torch.no_grad()
def test_one_pass_is_prefill_and_steps(kv_heads: int) -> None:
    gemma, features = model(kv_heads), image_features(kv_heads)
    batch = collate(EXAMPLES, tokenizer(), features.shape[1])
    actual = answer_logits(gemma, features, batch)
    for row in range(len(EXAMPLES)):
        length = int(batch.prefix[row])
        prompt = batch.input_ids[row : row + 1, :length]
        logits, kv_cache = gemma.prefill(prompt, features[row : row + 1], torch.tensor([length]))
        expected = [logits]
        for step, token in enumerate(batch.targets[batch.rows == row][:-1]):
            slot = torch.tensor([features.shape[1] + length + step])
            logits, kv_cache = gemma.decode_step(token.reshape(1, 1), slot, kv_cache)
            expected.append(logits)
        # Only the order of sums differs; the largest measured difference is 3e-6.
        torch.testing.assert_close(actual[batch.rows == row], torch.cat(expected), rtol=0, atol=2e-5)


def test_the_mask_is_the_drawn_one() -> None:
    (mask,) = training_mask(torch.tensor([3]), 6)
    drawing = ["###...", "###...", "###...", "####..", "#####.", "######"]
    assert ["".join(".#"[int(attends)] for attends in row) for row in mask[0]] == drawing


def test_the_loss_is_numpy() -> None:
    features = image_features(1)
    batch = collate(EXAMPLES, tokenizer(), features.shape[1])
    logits = answer_logits(model(1), features, batch).detach() * 3
    location_std = 4.0
    log_probs = log_softmax(logits.double().numpy(), axis=1)
    first = tokenizer().first_location
    expected = 0.0
    for row, target, weight in zip(log_probs, batch.targets.tolist(), batch.weights.tolist(), strict=True):
        location = target - first
        if 0 <= location < LOCATIONS:
            gaussian = np.exp(-((np.arange(LOCATIONS) - location) ** 2) / (2 * location_std**2))
            gaussian /= gaussian.sum()
            expected += weight * (-(gaussian * row[first : first + LOCATIONS]).sum() - entropy(gaussian))
        else:
            expected -= weight * row[target]
    actual = float(answer_loss(logits, batch, tokenizer(), location_std))
    assert actual == pytest.approx(expected, rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    batch = collate(EXAMPLES, tokenizer(), 16)
    logits = torch.full((len(batch.targets), tokenizer().image), -1e4)
    first = tokenizer().first_location
    for row, target in enumerate(batch.targets.tolist()):
        location = target - first
        if 0 <= location < LOCATIONS:
            offsets = torch.arange(LOCATIONS) - location
            logits[row, first : first + LOCATIONS] = -(offsets**2) / 50.0
        else:
            logits[row, target] = 0.0
    assert float(answer_loss(logits, batch, tokenizer(), 5.0)) == pytest.approx(0, abs=1e-4)


def test_neighbouring_locations_look_alike() -> None:
    torch.manual_seed(0)
    rows = smooth_rows(LOCATIONS, 64)
    near, far = ((rows[:-distance] * rows[distance:]).sum(dim=1) for distance in (2, 200))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(LOCATIONS))
    assert float(near.min()) > 0.95
    assert float(far.max()) < 0.6


def test_places_of_the_grid_differ() -> None:
    """Each position differs from all others, and the most similar one is a neighbour in the grid."""
    positions = grid_waves(8, 64)
    distances = torch.cdist(positions, positions) + 100 * torch.eye(64)
    assert float(distances.min()) > 1
    nearest = distances.argmin(dim=1)
    rows, columns = torch.arange(64) // 8, torch.arange(64) % 8
    steps = (rows - rows[nearest]).abs() + (columns - columns[nearest]).abs()
    assert set(steps.tolist()) == {1}


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, images=1, peak_rate=2.0, warmup=10)
    rates = [learning_rate(step, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.01


def test_scenes_grow() -> None:
    steps = (0, 599, 600, 2_500, 4_500)
    assert [max_objects_at(step, FULL.stage2_curriculum) for step in steps] == [1, 1, 2, 3, 5]

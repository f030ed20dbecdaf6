"""Training's one pass computes what generation computes step by step; its loss is the one written down."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.presets import tiny_gemma
from training.initialization import fresh_model, grid_waves, smooth_rows
from training.loop import rate
from training.prefix_lm import Ids, answer_logits, collate, loss, training_mask
from training.recipe import FULL, Schedule, most_items
from training.sample_tokenizer import build_sample_tokenizer
from training.tasks import LOCATIONS, Example

EXAMPLES = [
    Example("caption", "caption en", "a red circle and a blue square"),
    Example("count", "answer en how many shapes are there?", "two"),
    Example("detect", "detect circle", "<loc0003><loc0700><loc0100><loc1000> circle"),
    Example("detect", "detect star", ""),  # only EOS is to be said
]


@cache
def ids() -> Ids:
    return Ids.of(build_sample_tokenizer(600))


@cache
def model(kv_heads: int) -> PaliGemma:
    torch.manual_seed(0)
    tiny = tiny_gemma(kv_heads)
    text = replace(tiny.text_config, vocab_size=ids().image + 8)
    return fresh_model(PaliGemmaConfig(tiny.vision_config, text, ids().image), ids().first_location)


def features(kv_heads: int) -> torch.Tensor:
    side = model(kv_heads).config.vision_config.image_size
    pixels = torch.randn(len(EXAMPLES), 3, side, side, generator=torch.Generator().manual_seed(1))
    return model(kv_heads).encode_image(pixels)


def test_a_batch() -> None:
    batch, tokenizer = collate(EXAMPLES, ids(), 16), ids().tokenizer
    answers = [ids().encode([one.suffix])[0] for one in EXAMPLES]
    assert batch.targets.tolist() == [token for answer in answers for token in (*answer, ids().eos)]
    assert batch.rows.tolist() == [row for row, answer in enumerate(answers) for _ in (*answer, None)]
    for row, one in enumerate(EXAMPLES):
        text = tokenizer.decode(batch.input_ids[row, : batch.prefix[row]].tolist())
        assert text == f"{one.prompt}\n"
        # A row of n tokens weighs sqrt(n).
        assert float(batch.weights[batch.rows == row].sum()) == pytest.approx((len(answers[row]) + 1) ** 0.5)


@pytest.mark.parametrize("kv_heads", [1, 2])
@torch.no_grad()
def test_one_pass_is_prefill_and_steps(kv_heads: int) -> None:
    gemma, seen = model(kv_heads), features(kv_heads)
    batch = collate(EXAMPLES, ids(), seen.shape[1])
    at_once = answer_logits(gemma, seen, batch)
    for row in range(len(EXAMPLES)):
        length = int(batch.prefix[row])
        prompt = batch.input_ids[row : row + 1, :length]
        logits, past = gemma.prefill(prompt, seen[row : row + 1], torch.tensor([length]))
        one_by_one = [logits]
        for step, token in enumerate(batch.targets[batch.rows == row][:-1]):
            slot = torch.tensor([seen.shape[1] + length + step])
            logits, past = gemma.decode_step(token.reshape(1, 1), slot, past)
            one_by_one.append(logits)
        # The same sums in another order; measured: up to 3e-6.
        torch.testing.assert_close(at_once[batch.rows == row], torch.cat(one_by_one), rtol=0, atol=2e-5)


def test_the_mask_is_the_drawn_one() -> None:
    (mask,) = training_mask(torch.tensor([3]), 6)
    drawing = ["###...", "###...", "###...", "####..", "#####.", "######"]
    assert ["".join(".#"[int(seen)] for seen in row) for row in mask[0]] == drawing


def test_the_loss_is_numpy() -> None:
    seen = features(1)
    batch = collate(EXAMPLES, ids(), seen.shape[1])
    logits = answer_logits(model(1), seen, batch).detach() * 3
    blur = 4.0
    logs = log_softmax(logits.double().numpy(), axis=1)
    expected = 0.0
    for row, target, weight in zip(logs, batch.targets.tolist(), batch.weights.tolist(), strict=True):
        place = target - ids().first_location
        if 0 <= place < LOCATIONS:
            bell = np.exp(-((np.arange(LOCATIONS) - place) ** 2) / (2 * blur**2))
            bell /= bell.sum()
            said = row[ids().first_location : ids().first_location + LOCATIONS]
            expected += weight * (-(bell * said).sum() - entropy(bell))
        else:
            expected -= weight * row[target]
    assert float(loss(logits, batch, ids(), blur)) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    batch = collate(EXAMPLES, ids(), 16)
    logits = torch.full((len(batch.targets), ids().image), -1e4)
    for row, target in enumerate(batch.targets.tolist()):
        place = target - ids().first_location
        if 0 <= place < LOCATIONS:
            steps = torch.arange(LOCATIONS) - place
            logits[row, ids().first_location : ids().first_location + LOCATIONS] = -(steps**2) / 50.0
        else:
            logits[row, target] = 0.0
    assert float(loss(logits, batch, ids(), 5.0)) == pytest.approx(0, abs=1e-4)


def test_neighbouring_locations_look_alike() -> None:
    torch.manual_seed(0)
    rows = smooth_rows(LOCATIONS, 64)
    near, far = ((rows[:-by] * rows[by:]).sum(dim=1) for by in (2, 200))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(LOCATIONS))
    assert float(near.min()) > 0.95
    assert float(far.max()) < 0.6


def test_places_of_the_grid_differ() -> None:
    places = grid_waves(8, 64)
    apart = torch.cdist(places, places) + 100 * torch.eye(64)
    assert float(apart.min()) > 1
    nearest = apart.argmin(dim=1)
    rows, columns = torch.arange(64) // 8, torch.arange(64) % 8
    steps = (rows - rows[nearest]).abs() + (columns - columns[nearest]).abs()
    assert set(steps.tolist()) == {1}


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, pictures=1, peak_rate=2.0, warmup=10)
    rates = [rate(step, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.01


def test_scenes_grow() -> None:
    assert [most_items(step, FULL.lessons2) for step in (0, 599, 600, 2_500, 4_500)] == [1, 1, 2, 3, 5]

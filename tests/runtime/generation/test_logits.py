"""Repetition penalty and probabilities of tokens, compared with transformers, torch and SciPy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from transformers import RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor

from paligemma_onnx.runtime.errors import NumericsError
from paligemma_onnx.runtime.generation.logits import (
    BLOCK,
    MAX_PENDING,
    NEAR,
    TokenScores,
    near_locations,
    penalize,
    score_token,
)
from paligemma_onnx.runtime.generation.sampling import SamplingOptions, candidates, rng_for, sample

VOCAB = 4000
LOCATIONS = np.arange(1000, 2024)
LOCATIONS_NEAR = near_locations(tuple(LOCATIONS.tolist()))


def logits(seed: int, size: int = VOCAB) -> NDArray[np.float32]:
    return (8 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_penalty_is_that_of_transformers(penalty: float) -> None:
    row, seen = logits(0), np.array([2, 7, 7, 3999, 5, 2])
    original = row.copy()
    reference = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.from_numpy(seen)[None], torch.from_numpy(row)[None].clone()
    )
    assert np.array_equal(penalize(row, seen, penalty), reference[0].numpy())
    assert np.array_equal(row, original)


def test_penalty_comes_before_suppression_and_filters() -> None:
    row, seen, suppressed = logits(1), np.arange(0, VOCAB, 3), np.arange(0, VOCAB, 5)
    scores = RepetitionPenaltyLogitsProcessor(1.7)(torch.from_numpy(seen)[None], torch.tensor(row)[None])
    scores = SuppressTokensLogitsProcessor(suppressed.tolist())(torch.from_numpy(seen)[None], scores)
    penalized = penalize(row, seen, 1.7)
    assert sample(penalized, SamplingOptions(), rng_for(0, 0), suppressed) == int(scores.argmax())
    ids, _ = candidates(penalized, SamplingOptions(temperature=1, top_k=50), suppressed)
    assert set(ids.tolist()) == set(scores[0].topk(50).indices.tolist())


FULL_VOCAB = 257_216
SPECIAL_ROWS = {
    "large": np.where(np.arange(FULL_VOCAB) % 2, np.float32(1e4), np.float32(-1e4)),
    "minus infinity": np.where(np.arange(FULL_VOCAB) % 3, logits(7, FULL_VOCAB), np.float32(-np.inf)),
    "one finite": np.where(np.arange(FULL_VOCAB) == 17, np.float32(3), np.float32(-np.inf)),
    **{
        f"equal {value}": np.full(FULL_VOCAB, value, np.float32)
        for value in (0.3, 0.0, -0.5, 60.0, 60.5, 90.0)
    },
    # All weights but one are equal, so all their roundings have the same sign.
    "one-sided rounding": np.where(np.arange(FULL_VOCAB) == 5, np.float32(0), np.float32(-16.545839)),
}


def assert_log_softmax(row: NDArray[np.float32]) -> None:
    expected = log_softmax(row.astype(np.float64))
    for token in (0, 17, int(row.argmax()), int(row.argmin())):
        actual = score_token(row, token, LOCATIONS_NEAR).logprob
        assert actual == pytest.approx(expected[token], abs=1e-6, rel=0)


@pytest.mark.parametrize("size", [1, VOCAB, BLOCK, BLOCK + 1, FULL_VOCAB])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
def test_log_probability_is_log_softmax(size: int, scale: float) -> None:
    row = logits(2, max(size, 18))[:size] * np.float32(scale)
    assert_log_softmax(np.pad(row, (0, max(0, 18 - size)), constant_values=-np.inf))


@pytest.mark.parametrize("kind", SPECIAL_ROWS)
def test_log_probability_of_special_logits(kind: str) -> None:
    assert_log_softmax(SPECIAL_ROWS[kind])


def test_scores_do_not_depend_on_when_they_are_computed() -> None:
    rows, ids = [logits(seed) for seed in range(100)], [900 + 11 * step for step in range(100)]
    expected = [score_token(row, token, LOCATIONS_NEAR) for row, token in zip(rows, ids, strict=True)]
    scores, asked_for = TokenScores(LOCATIONS_NEAR), TokenScores(LOCATIONS_NEAR)
    for step, (row, token) in enumerate(zip(rows, ids, strict=True)):
        scores.add(row, token, is_last=step == 99)
        asked_for.add(row, token, is_last=False)
        assert asked_for.so_far() == expected[: step + 1]
    assert scores.so_far() == expected


@pytest.mark.parametrize("size", [VOCAB, FULL_VOCAB])
def test_waiting_logits_have_a_limit(size: int) -> None:
    scores, alive = TokenScores({}), weakref.WeakValueDictionary[int, NDArray[np.float32]]()
    for step in range(100):
        row = np.zeros(size, np.float32)
        alive[step] = row
        scores.add(row, 0, is_last=False)
        del row
        assert sum(waiting.size for waiting in alive.values()) < MAX_PENDING
    scores.add(np.zeros(size, np.float32), 0, is_last=True)
    assert not alive
    assert len(scores.so_far()) == 101


def test_strict_error_state_of_numpy() -> None:
    scores = TokenScores({})
    with np.errstate(all="raise"):
        scores.add(np.array([0, -200], np.float32), 0, is_last=True)
    assert scores.so_far()[0].logprob == 0


def test_location_probability_counts_near_locations() -> None:
    row = logits(3)
    probabilities = np.exp(log_softmax(row.astype(np.float64)))
    for place in (0, NEAR - 1, 512, 1023):
        near = probabilities[LOCATIONS[max(0, place - NEAR) : place + NEAR + 1]].sum()
        actual = score_token(row, int(LOCATIONS[place]), LOCATIONS_NEAR).location_prob
        assert actual == pytest.approx(near, rel=1e-5)
    for token in (999, 2024):
        assert score_token(row, token, LOCATIONS_NEAR).location_prob is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("token", [0, 5])
def test_logits_that_are_no_numbers(bad: float, token: int) -> None:
    row = logits(4)
    row[5] = bad
    with pytest.raises(NumericsError):
        score_token(row, token, LOCATIONS_NEAR)
    scores = TokenScores(LOCATIONS_NEAR)
    scores.add(row, token, is_last=False)
    with pytest.raises(NumericsError):
        scores.add(logits(5), token, is_last=True)

"""Repetition penalty and probabilities of tokens, compared with transformers, torch and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from transformers import RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor

from paligemma_onnx.runtime.errors import NumericsError
from paligemma_onnx.runtime.generation.logits import NEAR, near_locations, penalize, score_token
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


@pytest.mark.parametrize("size", [VOCAB, 257_216])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
def test_log_probability_is_log_softmax(size: int, scale: float) -> None:
    row = logits(2, size) * np.float32(scale)
    expected = log_softmax(row.astype(np.float64))
    for token in (0, 17, int(row.argmax()), int(row.argmin())):
        assert score_token(row, token, LOCATIONS_NEAR).logprob == pytest.approx(
            expected[token], abs=1e-5, rel=1e-6
        )


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

"""Random numbers, sampled ids and scores of the JavaScript driver, compared with the Python driver."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from web_driver import run_parity

from paligemma_onnx.runtime.errors import NumericsError
from paligemma_onnx.runtime.generation.logits import near_locations, penalize, score_token
from paligemma_onnx.runtime.generation.sampling import NUM_SEEDS, SamplingOptions, rng_for, sample

pytestmark = pytest.mark.web

VOCAB_SIZE, STEPS, RUNS = 257_216, 8, 50
LOCATION_IDS = tuple(range(256_000, 257_024))
# Reals; the Python driver sums float32 exponentials with an error below 1e-6.
SCORE_TOLERANCE = 2e-6
REFUSED = [["NaN", "1"], ["1", "Infinity"], ["-Infinity", "-Infinity"], ["0", "1", "NaN"]]


def step_logits() -> NDArray[np.float32]:
    """Return float32[steps, V]: peaked, flat, with many equal logits, and with -inf."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(STEPS, VOCAB_SIZE)).astype(np.float32)
    scales = np.array([8, 3, 1, 0.01, 2, 1, 5, 0], np.float32)
    logits *= scales[:, None]
    logits[4] = np.round(logits[4])
    logits[5, ::3] = -np.inf
    logits[6, 1000] = 60
    logits[0, LOCATION_IDS[500]] = 40
    return logits


def runs() -> list[tuple[int, SamplingOptions, list[int], list[int]]]:
    """Return the seed, the options, the suppressed ids and the ids seen so far of each run."""
    rng = random.Random(0)
    listed = []
    for number in range(RUNS):
        options = SamplingOptions(
            temperature=rng.choice([0.0, 0.05, 0.7, 1, 1.0, 1.3, 5.0]) if number else 1e-300,
            top_k=rng.choice([0, 0, 1, 5, 64, 65, 1000, VOCAB_SIZE, VOCAB_SIZE + 1]),
            top_p=rng.choice([1.0, 1.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 1]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.1, 3.7, 0.5]),
        )
        suppressed = rng.sample(range(VOCAB_SIZE), rng.choice([0, 1, 50])) + rng.choice([[], [1000]])
        seen = rng.choices(range(VOCAB_SIZE), k=20)
        listed.append((rng.choice([number, rng.randrange(NUM_SEEDS)]), options, suppressed, seen))
    return listed


def expected_ids(
    steps: NDArray[np.float32], seed: int, options: SamplingOptions, suppressed: list[int], seen: list[int]
) -> list[int]:
    rng, ids = rng_for(seed, 0), list(seen)
    for logits in steps:
        penalized = penalize(logits, np.array(ids), options.repetition_penalty)
        ids.append(sample(penalized, options, rng, np.array(suppressed, np.int64)))
    return ids[len(seen) :]


def as_json(options: SamplingOptions) -> dict[str, Any]:
    return {
        "temperature": options.temperature,
        "topK": options.top_k,
        "topP": options.top_p,
        "repetitionPenalty": options.repetition_penalty,
        "suppressTokens": list(options.suppress_tokens),
    }


def message(texts: list[str]) -> str:
    with pytest.raises(NumericsError) as caught:
        sample(np.array(texts, np.float32), SamplingOptions(), rng_for(0, 0))
    return f"NumericsError: {caught.value}"


def test_ids_and_scores_are_equal(tmp_path: Path) -> None:
    steps = step_logits()
    steps.astype("<f4").tofile(tmp_path / "logits.f32")
    draws = [
        (seed, row) for seed in (0, 1, 2**32 - 1, 2**32, 2**63 + 12345, NUM_SEEDS - 1) for row in (0, 1, 9)
    ]
    scored = [LOCATION_IDS[500], 5, LOCATION_IDS[0], 7, LOCATION_IDS[-1], 1, 1000, 3]
    job = {
        "logits": str(tmp_path / "logits.f32"),
        "vocabSize": VOCAB_SIZE,
        "draws": [{"seed": str(seed), "row": row, "count": 100} for seed, row in draws],
        "runs": [
            {"seed": str(seed), "options": as_json(options), "suppressed": suppressed, "seen": seen}
            for seed, options, suppressed, seen in runs()
        ],
        "refused": REFUSED,
        "locationIds": LOCATION_IDS,
        "scored": scored,
    }
    result = run_parity("sampling", job, tmp_path)
    assert result["draws"] == [rng_for(seed, row).random(100).tolist() for seed, row in draws]
    expected = [expected_ids(steps, *run) for run in runs()]
    assert result["ids"] == expected
    assert len({id_ for ids in expected for id_ in ids}) > RUNS * STEPS / 3
    assert result["refused"] == [message(texts) for texts in REFUSED]
    near = near_locations(LOCATION_IDS)
    for logits, token_id, score in zip(steps, scored, result["scores"], strict=True):
        wanted = score_token(logits, token_id, near)
        assert score["logprob"] == pytest.approx(wanted.logprob, abs=SCORE_TOLERANCE)
        assert score["locationProb"] == pytest.approx(wanted.location_prob, abs=SCORE_TOLERANCE)

"""Sampling compared with a full sort in NumPy, transformers' logits warpers and a chi-square test."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import special, stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from paligemma_onnx.runtime.errors import NumericsError, OptionError
from paligemma_onnx.runtime.generation.sampling import (
    SamplingOptions,
    candidates,
    random_seed,
    rng_for,
    sample,
)

Logits = NDArray[np.float32]
VOCABULARY = 257_216  # rows of PaliGemma's embedding

# Few distinct values, so that equal logits are common, and any finite values and -inf.
logit_arrays = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 7.0])
    | st.floats(-80, 80, width=32)
    | st.just(-float("inf")),
).filter(lambda logits: bool(np.isfinite(logits).any()))
option_sets = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([1e-6, 0.1, 0.7, 1.0, 3.0, 1e9]),
    top_k=st.sampled_from([0, 1, 2, 5, 50, 1000]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
)


def reference(logits: Logits, options: SamplingOptions) -> tuple[list[int], float]:
    """Return the ids kept, by sorting all logits, and the distance of top-p to the nearest other boundary."""
    order = np.lexsort((np.arange(logits.size), -logits.astype(np.float64)))
    if options.top_k:
        order = order[: options.top_k]
    reach = np.cumsum(special.softmax(logits[order].astype(np.float64) / options.temperature))
    if options.top_p == 1:
        return sorted(order.tolist()), 1.0
    count = min(int(np.sum(reach < options.top_p)) + 1, order.size)
    return sorted(order[:count].tolist()), float(np.abs(reach - options.top_p).min())


@pytest.mark.slow
@given(logits=logit_arrays, options=option_sets)
@settings(max_examples=400, deadline=None)
def test_candidates_are_those_of_a_full_sort(logits: Logits, options: SamplingOptions) -> None:
    expected, margin = reference(logits, options)
    assume(margin > 1e-12)  # closer, the two orders of summation may round to either side
    ids, weights = candidates(logits, options)
    assert ids.tolist() == expected
    probabilities = special.softmax(logits[ids].astype(np.float64) / options.temperature)
    # The weights are exponentials of arguments of up to 160 / 1e-6, each rounded to 53 bits.
    np.testing.assert_allclose(weights / weights.sum(), probabilities, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
@given(logits=logit_arrays, options=option_sets, seed=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_sampled_id_is_a_candidate_of_positive_probability(
    logits: Logits, options: SamplingOptions, seed: int
) -> None:
    before = logits.copy()
    drawn = sample(logits, options, rng_for(seed, 0))
    expected, margin = reference(logits, options)
    assume(margin > 1e-12)
    assert drawn in expected
    assert logits[drawn] > -np.inf
    np.testing.assert_array_equal(logits, before)


@given(logits=logit_arrays, temperature=st.sampled_from([1e-3, 1.0, 1e12]), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_one_candidate_is_the_greedy_one(logits: Logits, temperature: float, seed: int) -> None:
    greedy = sample(logits, SamplingOptions(), rng_for(seed, 0))
    assert greedy == np.flatnonzero(logits == logits.max())[0]
    for options in (SamplingOptions(temperature, top_k=1), SamplingOptions(temperature, top_p=1e-12)):
        assert sample(logits, options, rng_for(seed, 0)) == greedy


def big(kind: str) -> Logits:
    """Return logits of the real vocabulary's size."""
    rng = np.random.default_rng(7)
    spread = {"peaked": 1, "spread": 3, "flat": 1e-3}[kind]
    logits: Logits = rng.normal(0, spread, VOCABULARY).astype(np.float32)
    if kind == "peaked":
        logits[rng.integers(0, VOCABULARY, 20)] += 20
    return logits


@pytest.mark.parametrize("kind", ["peaked", "spread", "flat"])
@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(1.0, top_p=0.9),
        SamplingOptions(0.7, top_k=50, top_p=0.9),
        SamplingOptions(2.0, top_k=100_000, top_p=0.99),
    ],
)
def test_candidates_of_a_real_vocabulary(kind: str, options: SamplingOptions) -> None:
    logits = big(kind)
    expected, margin = reference(logits, options)
    assert margin > 1e-10
    assert candidates(logits, options)[0].tolist() == expected


@pytest.mark.parametrize("kind", ["peaked", "spread", "flat"])
def test_candidates_are_those_transformers_keeps(kind: str) -> None:
    # Without equal logits, which are treated differently on purpose (see `candidates`).
    logits = np.random.default_rng(1).permutation(np.unique(big(kind)))
    for temperature, top_k, top_p in [(1.0, 0, 0.9), (0.7, 50, 0.9), (1.3, 0, 0.3), (2.0, 1000, 0.999)]:
        # float64: a float32 running sum of the reference would move the boundary.
        scores = torch.from_numpy(logits.astype(np.float64))[None]
        scores = TemperatureLogitsWarper(temperature)(None, scores)
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        scores = TopPLogitsWarper(top_p)(None, scores)
        kept = np.flatnonzero(np.isfinite(scores[0].numpy()))
        ids, weights = candidates(logits, SamplingOptions(temperature, top_k, top_p))
        np.testing.assert_array_equal(ids, kept)
        expected = torch.softmax(scores[0], dim=-1).numpy()[kept]
        np.testing.assert_allclose(weights / weights.sum(), expected, rtol=1e-9)


def test_equals_at_a_boundary_keep_the_lowest_ids() -> None:
    logits = np.array([1, 5, 1, 5, 1, 5], np.float32)
    assert candidates(logits, SamplingOptions(1.0, top_k=2))[0].tolist() == [1, 3]
    assert candidates(logits, SamplingOptions(1.0, top_k=4))[0].tolist() == [0, 1, 3, 5]
    equal = np.zeros(1000, np.float32)
    assert candidates(equal, SamplingOptions(1.0, top_p=0.2505))[0].tolist() == list(range(251))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [SamplingOptions(1.0), SamplingOptions(0.8, top_k=12), SamplingOptions(1.5, top_k=30, top_p=0.8)],
)
def test_frequencies_are_the_probabilities(options: SamplingOptions) -> None:
    logits = np.random.default_rng(3).normal(0, 1.5, 40).astype(np.float32)
    kept, _ = reference(logits, options)
    rng = rng_for(11, 0)
    drawn = [sample(logits, options, rng) for _ in range(20_000)]
    counts = np.bincount(drawn, minlength=40)[kept]
    assert counts.sum() == len(drawn)
    expected = special.softmax(logits[kept].astype(np.float64) / options.temperature) * len(drawn)
    # The seed is fixed, so the result is always the same; a correct sampler fails for one seed in a thousand.
    assert stats.chisquare(counts, expected).pvalue > 0.001


SUPPRESSED = np.array([0, 3, 39], np.int64)


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(1.0), SamplingOptions(1.0, 5, 0.9)])
def test_suppressed_ids_are_never_chosen(options: SamplingOptions) -> None:
    logits = np.random.default_rng(5).normal(0, 1, 40).astype(np.float32)
    logits[SUPPRESSED] = 9  # by far the most likely
    logits.flags.writeable = False  # as a view of onnxruntime's memory may be
    without = logits.copy()
    without[SUPPRESSED] = -np.inf
    for seed in range(50):
        drawn = sample(logits, options, rng_for(seed, 0), SUPPRESSED)
        assert drawn not in SUPPRESSED
        assert drawn == sample(without, options, rng_for(seed, 0))


def test_same_seed_same_ids() -> None:
    logits = big("spread")
    options = SamplingOptions(1.0, top_p=0.9)
    first, again, other = (
        [sample(logits, options, rng) for _ in range(8)]
        for rng in (rng_for(42, 0), rng_for(42, 0), rng_for(43, 0))
    )
    assert first == again
    assert first != other


def test_row_of_a_batch_draws_as_the_request_alone() -> None:
    assert rng_for(5, 3).random(4).tolist() == rng_for(8, 0).random(4).tolist()
    assert rng_for(2**64 - 1, 2).random(4).tolist() == rng_for(1, 0).random(4).tolist()
    assert rng_for(5, 0).random(4).tolist() == np.random.Generator(np.random.PCG64(5)).random(4).tolist()


def test_each_token_takes_one_draw_and_greedy_none() -> None:
    logits = big("peaked")
    rng, plain = rng_for(1, 0), rng_for(1, 0)
    sample(logits, SamplingOptions(), rng)
    sample(logits, SamplingOptions(1.0, top_k=3), rng)
    plain.random()
    assert rng.random() == plain.random()


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 1), (1 - 2.0**-53, 3)])
def test_extreme_draws_stay_inside(drawn: float, expected: int) -> None:
    """An id of probability 0 is never chosen, neither before the first candidate nor after the last."""

    class Fixed(np.random.Generator):
        def random(self, *_args: Any, **_kwargs: Any) -> Any:
            return drawn

    rng = Fixed(np.random.PCG64(0))
    for middle in np.linspace(0, 3, 50):
        logits = np.array([-np.inf, 2, middle, 3, -np.inf, -np.inf], np.float32)
        assert sample(logits, SamplingOptions(1.0), rng) == expected


def test_fresh_seeds_are_valid_and_differ() -> None:
    seeds = [random_seed() for _ in range(20)]
    assert len(set(seeds)) == 20
    assert all(SamplingOptions(seed=seed).seed == seed for seed in seeds)


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(1.0), SamplingOptions(1.0, 5, 0.9)])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([np.nan], "NaN"),
        ([np.nan, np.inf], "NaN"),
        ([np.inf], "infinite"),
        ([np.inf, -np.inf], "infinite"),
    ],
)
def test_overflow_is_reported(options: SamplingOptions, bad: list[float], message: str) -> None:
    logits = np.random.default_rng(0).normal(0, 1, 300).astype(np.float32)
    logits[250 : 250 + len(bad)] = bad
    with pytest.raises(NumericsError, match=f"{message}.*use precision fp32 or bf16"):
        sample(logits, options, rng_for(0, 0))
    with pytest.raises(NumericsError, match=message):
        sample(np.full(300, bad[0], np.float32), options, rng_for(0, 0))


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(1.0), SamplingOptions(1.0, 5, 0.9)])
def test_no_finite_logit_is_reported(options: SamplingOptions) -> None:
    logits = np.full(40, -np.inf, np.float32)
    with pytest.raises(NumericsError, match=r"no finite logit.*use precision fp32 or bf16"):
        sample(logits, options, rng_for(0, 0))
    logits[SUPPRESSED] = 1
    with pytest.raises(NumericsError, match="no finite logit"):
        sample(logits, options, rng_for(0, 0), SUPPRESSED)


NAN, INF = float("nan"), float("inf")
BAD: list[tuple[str, Any, str]] = [
    *(("temperature", value, "finite number >= 0") for value in (-0.1, NAN, INF, -INF, True, "1", None)),
    *(("temperature", value, "finite number >= 0") for value in (10**400, 1j, [1.0], np.ones(2))),
    *(("top_p", value, "> 0 and <= 1") for value in (0, 0.0, 1.1, -0.5, NAN, INF, True, "0.9", None)),
    *(("top_k", value, "whole number >= 0") for value in (-1, 1.5, 5.0, NAN, True, "3", None)),
    *(("seed", value, r"0 to 2\*\*64 - 1") for value in (-1, 2**64, 10**5000, 1.0, NAN, True, "7")),
]


@pytest.mark.parametrize(
    ("name", "value", "message"), BAD, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(BAD)]
)
def test_option_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} must be .*{message}") as caught:
        SamplingOptions(**{name: value})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_options_at_the_ends_of_their_ranges() -> None:
    for accepted in (
        SamplingOptions(0, 0, 1, 0),
        SamplingOptions(-0.0, 10**30, 5e-324, 2**64 - 1),
        SamplingOptions(1e308, np.int64(3), np.float32(0.5), np.uint64(7)),  # type: ignore[arg-type]
        SamplingOptions(5e-324, top_p=float(np.nextafter(1, 0))),
        SamplingOptions(Fraction(1, 10**400)),  # type: ignore[arg-type]
    ):
        drawn = sample(big("peaked")[:1000], accepted, rng_for(int(accepted.seed or 0), 1))
        assert 0 <= drawn < 1000
    assert SamplingOptions().is_greedy
    assert SamplingOptions(-0.0).is_greedy
    assert not SamplingOptions(1e-9).is_greedy

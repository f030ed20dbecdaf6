"""Decoding with a KV cache that is updated in place: equal to torch, without moving the cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close, relative_error
from damage import copy_folder, disable_stop_ids, edit_manifest

from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.model.cache import Cache as TorchCache
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.paligemma import PaliGemma as Model
from paligemma_onnx.runtime import Cancellation, PaliGemma, Request
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.graphs.kv_cache import CACHE_HEADROOM, Cache, allocate_cache, split_heads
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
FAMILIES = {"gemma": "gemma_one_kv_head", "gemma2": "gemma2_window"}
MAX_ERROR = 1e-5  # relative to the largest value, float32 in onnxruntime and torch; measured: up to 1e-6
MIN_WINDOW_ERROR = 1e-3  # error of a window that is one token too long or too short
STEPS = 12
IMAGE_TOKENS, LENGTHS = 6, (9, 2, 5)  # rows of 15, 8 and 11 tokens: all longer than the window of 5
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
PROMPTS = ("caption en", "answer en how many shapes are there?", "", "detect circle ; square")
NEVER = Cancellation()
both_families = pytest.mark.parametrize("family", FAMILIES)


@dataclass(frozen=True)
class Pair:
    """A checkpoint and its bundle with a cache that is updated in place."""

    checkpoint: Path
    bundle: Path

    @property
    def model(self) -> Model:
        return load_model(*open_checkpoint(self.checkpoint))

    @property
    def runner(self) -> OnnxModelRunner:
        runner = PaliGemma.load(self.bundle, device="cpu").runner
        assert isinstance(runner, OnnxModelRunner)
        return runner


@pytest.fixture(scope="module")
def pair(checkpoint: Folders, in_place_bundle: Folders) -> Callable[[str], Pair]:
    """Return the pair of a model family; read only."""
    return lambda family: Pair(checkpoint(FAMILIES[family]), in_place_bundle(FAMILIES[family]))


@dataclass(frozen=True)
class Prefilled:
    """Caches of onnxruntime and torch after a prefill of the same padded batch."""

    cache: Cache
    reference: TorchCache
    slots: torch.Tensor  # int64[B], in use


def prefill(runner: OnnxModelRunner, model: Model, text_lengths: tuple[int, ...] = LENGTHS) -> Prefilled:
    random, width = np.random.default_rng(4), runner.manifest.model.hidden_size
    ids = random.integers(4, 600, (len(LENGTHS), max(LENGTHS)))
    features = random.normal(size=(len(LENGTHS), IMAGE_TOKENS, width)).astype(np.float32)
    lengths = np.array(text_lengths)
    capacity = IMAGE_TOKENS + max(LENGTHS) + STEPS
    logits, cache = runner.prefill(ids, features, lengths, capacity, NEVER)
    expected, reference = model.prefill(*map(torch.from_numpy, (ids, features, lengths)))
    assert_close("prefill", logits, expected, MAX_ERROR)
    for actual, tensor in zip(cache.values, (tensor for layer in reference for tensor in layer), strict=True):
        assert actual.shape[1] == capacity
        split = split_heads(actual, runner.manifest.cache)
        assert_close("cache of prefill", split[:, :, : tensor.shape[2]], tensor, MAX_ERROR)
    return Prefilled(cache, reference, torch.from_numpy(cache.lengths))


def fill_unused_slots(cache: Cache, number: float) -> None:
    """Write a number into every slot that no row uses yet."""
    for value in cache.values:
        content = value.numpy()
        for row, length in enumerate(cache.lengths):
            content[row, length:] = number
        value.copy_from(content)


def tokens(steps: int, seed: int = 5) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(4, 600, (len(LENGTHS), 1)) for _ in range(steps)]


def max_error(
    runner: OnnxModelRunner, model: Model, prefilled: Prefilled, step_ids: list[np.ndarray]
) -> float:
    """Decode with both and return the largest relative error of logits and of written cache slots."""
    cache, reference, largest, rows = prefilled.cache, prefilled.reference, 0.0, np.arange(len(LENGTHS))
    for step, ids in enumerate(step_ids):
        slots = cache.lengths
        logits, cache = runner.decode(ids, cache, NEVER)
        expected, reference = model.decode_step(torch.from_numpy(ids), prefilled.slots + step, reference)
        errors = [relative_error(logits, expected)]
        flat = (tensor for layer in reference for tensor in layer)
        for value, tensor in zip(cache.values, flat, strict=True):
            split = split_heads(value, runner.manifest.cache)
            errors.append(relative_error(split[rows, :, slots], tensor.numpy()[rows, :, slots]))
        largest = max(largest, *errors)
    return largest


@both_families
@pytest.mark.parametrize("lengths", [LENGTHS, (9, 9, 9)])
def test_each_step_is_torchs(pair: Callable[[str], Pair], family: str, lengths: tuple[int, ...]) -> None:
    """Twelve decode steps of rows of different lengths, all longer than the sliding window."""
    runner, model = pair(family).runner, pair(family).model
    error = max_error(runner, model, prefill(runner, model, lengths), tokens(STEPS))
    print(f"{family}: error {error:.1e} of the largest value, allowed {MAX_ERROR:.0e}")
    assert error <= MAX_ERROR


@both_families
def test_a_step_of_several_tokens_is_as_many_steps(pair: Callable[[str], Pair], family: str) -> None:
    """Logits and cache of one call with four tokens, more than the window of five slots has left."""
    runner, model = pair(family).runner, pair(family).model
    prefilled, ids = prefill(runner, model), tokens(4)
    logits, cache = runner.decode(np.concatenate(ids, axis=1), prefilled.cache, NEVER)
    at_once = [value.numpy() for value in cache.values]
    single = prefilled.cache
    for index, each in enumerate(ids):
        expected, single = runner.decode(each, single, NEVER)
        assert_close(f"token {index}", logits[index :: len(ids)], expected, MAX_ERROR)
    assert np.array_equal(cache.lengths, single.lengths)
    for value, expected in zip(at_once, single.values, strict=True):
        assert_close("cache", value, expected.numpy(), MAX_ERROR)


@both_families
@pytest.mark.parametrize("garbage", [1e10, -1e10])
def test_what_stands_behind_a_row_does_not_matter(
    pair: Callable[[str], Pair], family: str, garbage: float
) -> None:
    runner, model = pair(family).runner, pair(family).model
    prefilled = prefill(runner, model)
    fill_unused_slots(prefilled.cache, garbage)
    assert max_error(runner, model, prefilled, tokens(STEPS)) <= MAX_ERROR


@pytest.mark.parametrize("off", [-1, 1])
def test_the_window_is_exact(pair: Callable[[str], Pair], off: int) -> None:
    """A window that is one token longer or shorter gives clearly different numbers."""
    runner, model = pair("gemma2").runner, pair("gemma2").model
    text = model.config.text_config
    assert text.sliding_window == 5 < IMAGE_TOKENS + min(LENGTHS)
    changed = replace(model.config, text_config=replace(text, sliding_window=5 + off))
    prefilled = prefill(runner, model)
    model.config = changed
    assert max_error(runner, model, prefilled, tokens(STEPS)) > MIN_WINDOW_ERROR


@both_families
def test_nothing_is_moved(pair: Callable[[str], Pair], family: str) -> None:
    """The cache stays at its address, and a step changes only the next slot of each row."""
    runner, model = pair(family).runner, pair(family).model
    cache = prefill(runner, model).cache
    fill_unused_slots(cache, 0)
    addresses = [value.address for value in cache.values]
    assert len(set(addresses)) == len(addresses)
    for ids in tokens(STEPS):
        before, slots = [value.numpy().copy() for value in cache.values], cache.lengths
        past = cache
        _, cache = runner.decode(ids, cache, NEVER)
        assert [value.address for value in cache.values] == addresses
        for old, value, past_value in zip(before, cache.values, past.values, strict=True):
            new, rows = value.numpy(), np.arange(len(slots))
            assert np.array_equal(past_value.numpy(), new)
            assert (new[rows, slots] != old[rows, slots]).all()
            old[rows, slots] = new[rows, slots]
            assert np.array_equal(old, new)


@both_families
def test_one_may_go_back(pair: Callable[[str], Pair], family: str) -> None:
    """Decoding again from an earlier cache overwrites the slots that followed it."""
    runner, model = pair(family).runner, pair(family).model
    prefilled = prefill(runner, model)
    for seed in range(3):
        assert max_error(runner, model, prefilled, tokens(STEPS - seed, seed)) <= MAX_ERROR


def test_free_slots_are_zeros(pair: Callable[[str], Pair]) -> None:
    """Freed memory may hold NaN; attention masks unused slots, but 0 * NaN is NaN."""
    runner = pair("gemma").runner
    cache_and_placement = runner.manifest.cache, runner.placement
    for _ in range(3):
        freed = [np.full_like(value.numpy(), np.nan) for value in allocate_cache(*cache_and_placement, 3, 60)]
        del freed
        assert all((value.numpy() == 0).all() for value in allocate_cache(*cache_and_placement, 3, 60))


@both_families
def test_it_moves_when_it_is_full(pair: Callable[[str], Pair], family: str) -> None:
    """Steps beyond the capacity of the prefill's cache; the old cache is unchanged."""
    runner, model = pair(family).runner, pair(family).model
    prefilled = prefill(runner, model)
    assert max_error(runner, model, prefilled, tokens(STEPS + 3)) <= MAX_ERROR
    full = replace(prefilled.cache, lengths=np.array([IMAGE_TOKENS + max(LENGTHS) + STEPS, 3, 3]))
    before = [value.numpy().copy() for value in prefilled.cache.values]
    _, moved = runner.decode(tokens(1)[0], full, NEVER)
    for old, value, new in zip(before, prefilled.cache.values, moved.values, strict=True):
        assert np.array_equal(value.numpy(), old)
        assert new.shape[1] == old.shape[1] + CACHE_HEADROOM


def test_a_row_beyond_the_capacity_is_refused(pair: Callable[[str], Pair]) -> None:
    """Lengths beyond the cache raise an error; nothing is written outside its memory."""
    runner, model = pair("gemma").runner, pair("gemma").model
    prefilled = prefill(runner, model)
    slots = prefilled.cache.values[0].shape[1] + CACHE_HEADROOM
    with pytest.raises(Exception, match="onnxruntime failed to run it"):
        runner.decode(tokens(1)[0], replace(prefilled.cache, lengths=np.array([slots, 3, 3])), NEVER)
    assert max_error(runner, model, prefilled, tokens(STEPS)) <= MAX_ERROR


def test_a_request_that_allows_much_takes_little(pair: Callable[[str], Pair]) -> None:
    runner = pair("gemma").runner
    ids, lengths = np.full((1, 5), 7), np.array([5])
    features = np.zeros((1, IMAGE_TOKENS, runner.manifest.model.hidden_size), dtype=np.float32)
    _, cache = runner.prefill(ids, features, lengths, 100_000, NEVER)
    assert cache.values[0].shape[1] == IMAGE_TOKENS + 5 + CACHE_HEADROOM


@both_families
def test_answers_of_a_batch_are_those_of_a_cache_that_grows(
    pair: Callable[[str], Pair], bundle: Folders, family: str
) -> None:
    requests = [
        Request(IMAGES[row % 3] if row < 3 else list(IMAGES[:2]), prompt)
        for row, prompt in enumerate(PROMPTS)
    ]
    model = PaliGemma.load(pair(family).bundle, device="cpu")
    reference = open_torch_model(pair(family).checkpoint)
    in_place, grown = (
        [answer.token_ids for answer in each.generate_batch(requests, max_new_tokens=24)]
        for each in (model, reference)
    )
    assert in_place == grown
    assert len(set(in_place)) == len(requests)
    if family == "gemma":
        other = PaliGemma.load(bundle("gemma_one_kv_head"), device="cpu")
        answers = other.generate_batch(requests, max_new_tokens=24)
        assert [answer.token_ids for answer in answers] == in_place


def test_rows_that_fill_the_context_beside_rows_that_do_not(
    pair: Callable[[str], Pair], tmp_path: Path
) -> None:
    """The long row stops at the end of the context; the short one generates more than twice as much."""
    folder = copy_folder(pair("gemma").bundle, tmp_path / "bundle")
    image = read_manifest(folder).image.tokens
    edit_manifest(folder, disable_stop_ids)
    edit_manifest(folder, lambda manifest: manifest["model"].update(context_length=image + 40))
    edit_manifest(folder, lambda manifest: manifest["generation"].update(max_new_tokens=8))
    model = PaliGemma.load(folder, device="cpu")
    requests = [Request(IMAGES[0], "why " * 12), Request(IMAGES[1], "")]
    together = model.generate_batch(requests, max_new_tokens=40)
    alone = [model.generate(request.images, request.prompt, max_new_tokens=40) for request in requests]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    long, short = (len(answer.token_ids) for answer in together)
    assert (long, short) == (40 - together[0].prompt_tokens, 38)
    assert short > 2 * long


@both_families
def test_a_stopped_answer_leaves_the_model_usable(pair: Callable[[str], Pair], family: str) -> None:
    model = PaliGemma.load(pair(family).bundle, device="cpu")
    whole = model.generate(IMAGES[0], "caption en", max_new_tokens=20).token_ids
    cancel = Cancellation()
    stream = model.stream(IMAGES[0], "caption en", max_new_tokens=20, cancel=cancel)
    next(iter(stream))
    cancel.cancel()
    list(stream)
    assert stream.result.finish_reason == "cancelled"
    with ThreadPoolExecutor(3) as threads:  # each request has its own cache
        answers = [
            threads.submit(model.generate, IMAGES[0], "caption en", max_new_tokens=20) for _ in range(6)
        ]
    assert [answer.result().token_ids for answer in answers] == [whole] * 6


def test_one_graph_is_opened_once(pair: Callable[[str], Pair]) -> None:
    assert (runner := pair("gemma").runner).prefill_session is runner.decode_session

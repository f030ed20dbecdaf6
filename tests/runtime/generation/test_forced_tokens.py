"""Constrained answers with several tokens per decode step, and the same answers with one token per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import SCENE

from benchmarks.forced_tokens import single_token_model, single_tokens
from paligemma_onnx.export.bundle.draft_manifest import draft_manifest
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.export.validation.transformers_reference import TransformersReference
from paligemma_onnx.runtime import Cancellation, Generation, PaliGemma, Request
from paligemma_onnx.runtime.generation.constraints import GrammarState, grammar_for_prompt
from paligemma_onnx.runtime.graphs.kv_cache import Cache

Folders = Callable[[str], Path]
CASES = ("gemma_one_kv_head", "gemma2_window")  # a window shorter than the sequence
PROMPTS = (
    "detect red ; red square ; redder",  # a label is the beginning of others
    "segment triangle ; ring",
    "detect",  # one label without text
    "detect two longer labels ; two longer legs",
)
MAX_LOGPROB_ERROR = 1e-5  # float32, in single answers and in batches


class Watched:
    """A runner that records the number of tokens T of every decode step, and the slots of its cache."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.manifest = runner, runner.manifest
        self.steps: list[int] = []
        self.slots = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def prefill(self, *arguments: Any) -> Any:
        self.slots = arguments[3]
        return self.runner.prefill(*arguments)

    def decode(self, input_ids: np.ndarray, cache: Cache, cancel: Cancellation) -> Any:
        assert cache.lengths.max() + input_ids.shape[1] <= self.slots
        self.steps.append(input_ids.shape[1])
        return self.runner.decode(input_ids, cache, cancel)


def watched(model: PaliGemma) -> tuple[PaliGemma, Watched]:
    """Return a copy of a model with a `Watched` runner, and the runner."""
    model, runner = copy(model), Watched(model.runner)
    model.runner = runner  # type: ignore[assignment]
    return model, runner


def assert_same(actual: Generation, expected: Generation) -> None:
    assert actual.token_ids == expected.token_ids
    assert (actual.text, actual.finish_reason) == (expected.text, expected.finish_reason)
    for name in ("logprobs", "location_probs"):
        scores = [np.array(getattr(each, name), dtype=float) for each in (actual, expected)]
        np.testing.assert_allclose(*scores, rtol=0, atol=MAX_LOGPROB_ERROR)


def assert_same_answers(model: PaliGemma, prompts: Sequence[str], seeds: Sequence[int]) -> list[int]:
    """Compare answers with different options, alone and in batches; return T of every decode step."""
    several, runner = watched(model)
    single, single_runner = watched(single_token_model(model))
    for seed in seeds:
        options: dict[str, Any] = {
            "temperature": (0, 1, 0.5)[seed % 3],
            "repetition_penalty": (1, 1.3)[seed % 2],
            "max_new_tokens": (30, 24, 8)[seed % 3],
        }
        requests = [Request(SCENE, prompts[(seed + row) % len(prompts)]) for row in range(len(prompts))]
        for batch in (requests, requests[:1]):
            pairs = (
                each.generate_batch(batch, seed=seed, constrained=True, logprobs=True, **options)
                for each in (several, single)
            )
            for actual, expected in zip(*pairs, strict=True):
                assert_same(actual, expected)
    assert set(single_runner.steps) == {1}
    assert len(runner.steps) < len(single_runner.steps)
    return runner.steps


def test_a_manifest_says_whether_steps_take_several_tokens(checkpoint: Folders) -> None:
    """Bundles of earlier exports declare one token."""
    source = open_source(checkpoint("gemma2_window"))
    for precision, takes_chunks in (("fp32", True), ("int4-portable", True), ("bf16", False)):
        manifest = draft_manifest(source, precision)
        assert manifest.takes_chunks == takes_chunks
        assert not single_tokens(manifest).takes_chunks


@pytest.mark.parametrize("case", CASES)
def test_answers_equal_those_of_single_tokens(checkpoint: Folders, case: str) -> None:
    steps = assert_same_answers(open_torch_model(checkpoint(case)), PROMPTS, range(3))
    assert max(steps) >= 4  # in single answers, labels with their separators


@pytest.mark.parametrize("case", CASES)
def test_transformers_continues_with_several_tokens(checkpoint: Folders, case: str) -> None:
    model = open_torch_model(checkpoint(case), TransformersReference(checkpoint(case)))
    ours = open_torch_model(checkpoint(case))
    answers = [
        each.generate(SCENE, PROMPTS[0], constrained=True, max_new_tokens=40, logprobs=True)
        for each in (single_token_model(model), model, ours)
    ]
    assert_same(answers[1], answers[0])
    assert answers[2].token_ids == answers[0].token_ids


@pytest.mark.parametrize("case", CASES)
def test_bundles_answer_as_with_single_tokens(bundle: Folders, case: str) -> None:
    model = PaliGemma.load(bundle(case), device="cpu")
    assert model.manifest.takes_chunks
    assert_same_answers(model, PROMPTS * (2 if case == CASES[0] else 1), range(2))


def test_portable_bundles_answer_as_with_single_tokens(rounded: Callable[[str, str], Path]) -> None:
    model = PaliGemma.load(rounded("gemma2_window", "int4-portable"), device="cpu")
    assert_same_answers(model, PROMPTS, range(2))


def test_in_place_bundles_answer_as_with_single_tokens(in_place_bundle: Folders) -> None:
    model = PaliGemma.load(in_place_bundle("gemma2_window"), device="cpu")
    assert_same_answers(model, PROMPTS, range(2))


def test_steps_whose_tokens_share_a_scale_are_not_joined(rounded: Callable[[str, str], Path]) -> None:
    """`int8` quantises activations with one scale per call, and so do steps of `int4` with four rows."""
    for precision, joined in (("int8", ()), ("int4", (1,))):
        model, runner = watched(PaliGemma.load(rounded("gemma_one_kv_head", precision), device="cpu"))
        for rows in (1, 4):
            runner.steps.clear()
            model.generate_batch([Request(SCENE, PROMPTS[0])] * rows, constrained=True, max_new_tokens=20)
            assert (max(runner.steps) > 1) == (rows in joined)


def test_openvino_answers_as_with_single_tokens(bundle: Folders) -> None:
    pytest.importorskip("openvino")
    model = PaliGemma.load(bundle("gemma2_window"), device="cpu", engine="openvino")
    assert_same_answers(model, PROMPTS[:2], [0])


@pytest.mark.parametrize("free", [1, 5, 6, 7, 13, 20])
def test_the_context_is_filled_as_with_single_tokens(checkpoint: Folders, free: int) -> None:
    """No step takes more slots than the context has; prompts of a batch have different lengths."""
    model = copy(open_torch_model(checkpoint("gemma_one_kv_head")))
    lengths = [len(model.tokenizer.encode(prompt, 99)) for prompt in PROMPTS]
    context = model.manifest.image.tokens + max(lengths) + free
    manifest = replace(model.manifest, model=replace(model.manifest.model, context_length=context))
    model = PaliGemma(manifest, model.tokenizer, replace(model.runner, manifest=manifest), 0.0)  # type: ignore[type-var]
    pairs = (
        each.generate_batch(
            [Request(SCENE, prompt) for prompt in PROMPTS], constrained=True, logprobs=True, max_new_tokens=25
        )
        for each in (watched(model)[0], single_token_model(model))
    )
    for actual, expected in zip(*pairs, strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("pieces", [1, 20, 21, 22, 23])
def test_a_cancelled_stream_has_the_same_tokens(checkpoint: Folders, pieces: int) -> None:
    """Cancelled before the label of an object, within it, and after it."""
    model = open_torch_model(checkpoint("gemma_one_kv_head"))
    token_ids, texts = [], []
    for each in (model, single_token_model(model)):
        cancel = Cancellation()
        stream = each.stream(SCENE, PROMPTS[1], constrained=True, cancel=cancel, max_new_tokens=60)
        first = [piece for piece, _ in zip(stream, range(pieces), strict=False)]
        cancel.cancel()
        texts.append([*first, *stream])
        token_ids.append(stream.result.token_ids)
        assert stream.result.finish_reason == "cancelled"
    assert token_ids[0] == token_ids[1]
    assert texts[0] == texts[1]


def test_timings_count_the_tokens_of_steps(checkpoint: Folders) -> None:
    """Not the padding, and not what the loop did not choose."""
    model = open_torch_model(checkpoint("gemma_one_kv_head"))
    counts = []
    for each in (model, single_token_model(model)):
        timings = each.generate(SCENE, PROMPTS[0], constrained=True, max_new_tokens=40).timings
        counts.append(round(timings.tokens_per_second * timings.decode_s))
    assert counts[0] == counts[1] > 0


def test_expected_ids_within_a_label_are_the_only_ways_to_continue(checkpoint: Folders) -> None:
    """In random walks through grammars: until the grammar leaves a choice, or no token fits."""
    model = open_torch_model(checkpoint("gemma_one_kv_head"))
    stop = model.manifest.tokens.stop
    rng, found = np.random.default_rng(0), set[int]()
    for prompt in PROMPTS:
        grammar = grammar_for_prompt(prompt, model.tokenizer, stop)
        for max_tokens in (6, 11, 40, 41, 42, 43, 60):
            state, tokens_left = GrammarState(), max_tokens
            while tokens_left:
                expected, reached, left = grammar.expected_ids(state, tokens_left), state, tokens_left
                found.add(len(expected))
                for token_id in () if state.label is grammar.labels else expected:
                    assert set(grammar.allowed(reached, left).tolist()) - set(stop) == {token_id}
                    reached, left = grammar.advance(reached, token_id), left - 1
                if left and state.label is not grammar.labels:
                    assert len(set(grammar.allowed(reached, left).tolist()) - set(stop)) != 1
                token_id = int(rng.choice(grammar.allowed(state, tokens_left)))
                if token_id in stop:
                    break
                state, tokens_left = grammar.advance(state, token_id), tokens_left - 1
    assert {0, 1, 2, 3} < found


def test_labels_are_expected_in_the_order_of_the_prompt(checkpoint: Folders) -> None:
    """After a label that was repeated, the same label is expected. The last label follows itself."""
    model = open_torch_model(checkpoint("gemma_one_kv_head"))
    labels, tokenizer = ("red", "blue", "green"), model.tokenizer
    grammar = grammar_for_prompt(f"detect {' ; '.join(labels)}", tokenizer, model.manifest.tokens.stop)
    state, expected = GrammarState(), []
    for label in ("red", "red", "blue", "blue", "green", "red"):
        for location in (0, 0, 5, 5):
            state = grammar.advance(state, tokenizer.location_ids[location])
        expected.append(tokenizer.decode(grammar.expected_ids(state, 40)))
        assert expected[-1].startswith(tokenizer.decode(grammar.expected_ids(state, 2)))
        for token_id in grammar.label_ids[labels.index(label)]:
            state = grammar.advance(state, token_id)
    assert [text.strip(" ;") for text in expected] == ["red", "blue", "red", "green", "blue", "green"]

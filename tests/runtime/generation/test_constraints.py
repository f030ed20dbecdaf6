"""Constrained decoding: with any logits, an answer consists of complete objects with the requested labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import SCENE

from paligemma_onnx.runtime import OptionError, PaliGemma, Request
from paligemma_onnx.runtime.bundle.schema import SEG_TOKENS_PER_MASK
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.generation.constraints import GrammarState, grammar_for_prompt

Folders = Callable[[str], Path]
CASES = ("gemma_one_kv_head", "gemma2_window")
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PROMPTS = ("detect cat ; dog", "segment cat", "detect circle", "segment red square ; square ; star", "detect")
# U+2581 stands for a space in the vocabulary, and is decoded as a space.
LETTERS = st.characters(exclude_characters="<;\u2581", codec="utf-8")
LABELS = st.lists(st.text(LETTERS, max_size=12), max_size=4)


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(request.param), device="cpu")


def labels_of(prompt: str) -> set[str]:
    return {label.strip() for label in prompt.partition(" ")[2].split(";")}


@pytest.mark.slow
def test_random_weights_parse(model: PaliGemma) -> None:
    """500 answers per model: greedy and sampled at several temperatures, short and long."""
    written = 0
    for seed in range(100):
        prompts = [PROMPTS[(seed + row) % len(PROMPTS)] for row in range(5)]
        answers = model.generate_batch(
            [Request(IMAGE, prompt) for prompt in prompts],
            constrained=True,
            seed=seed,
            temperature=(0, 0.5, 1, 3)[seed % 4],
            max_new_tokens=(1, 5, 24, 40, 60)[seed % 5],
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            parsed = parse_answer(answer.text)
            assert parsed.warnings == ()
            assert {item.label for item in parsed.objects} <= labels_of(prompt)
            for item in parsed.objects:
                assert (item.mask_tokens is not None) == prompt.startswith("segment")
            assert "<loc" not in answer.text or parsed.objects  # the parser loses nothing
            written += len(parsed.objects)
    assert written > 200  # most answers are not empty


def test_without_it_ids_are_as_before(model: PaliGemma) -> None:
    plain = model.generate(IMAGE, "detect cat", max_new_tokens=20)
    unconstrained = model.generate(IMAGE, "detect cat", max_new_tokens=20, constrained=False)
    assert plain.token_ids == unconstrained.token_ids
    assert parse_answer(plain.text).objects == ()  # random weights do not produce objects


@pytest.mark.slow
def test_the_shipped_model_answers_as_without(shipped_bundle: Path) -> None:
    """It has learnt the grammar: constrained greedy ids equal the unconstrained ones."""
    shipped = PaliGemma.load(shipped_bundle, device="cpu")
    for prompt in ("detect circle ; star", "segment blue ring", "detect ring"):
        free, bound = (shipped.generate(SCENE, prompt, constrained=choice) for choice in (False, True))
        assert bound.token_ids == free.token_ids
        assert parse_answer(bound.text).objects


@settings(deadline=None, max_examples=200)
@given(
    data=st.data(), labels=LABELS, max_tokens=st.integers(1, 80), task=st.sampled_from(["detect", "segment"])
)
def test_any_walk_parses(
    model: PaliGemma, data: st.DataObject, labels: list[str], max_tokens: int, task: str
) -> None:
    """Hypothesis chooses among the allowed ids, and the maximum number of tokens."""
    stop = model.manifest.tokens.stop
    grammar = grammar_for_prompt(f"{task} {' ; '.join(labels)}", model.tokenizer, stop)
    state, ids = GrammarState(), list[int]()
    while max_tokens > len(ids):
        allowed = grammar.allowed(state, max_tokens - len(ids)).tolist()
        token = data.draw(st.sampled_from(allowed))
        if token in stop:
            break
        ids.append(token)
        state = grammar.advance(state, token)
    parsed = parse_answer(model.tokenizer.decode(ids))
    assert parsed.warnings == ()
    assert {item.label for item in parsed.objects} <= {label.strip() for label in labels or [""]}
    mask_tokens = {len(item.mask_tokens or ()) for item in parsed.objects}
    assert mask_tokens <= {SEG_TOKENS_PER_MASK if task == "segment" else 0}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("caption en", "begin with `detect` or `segment`"),
        ("", "begin with `detect` or `segment`"),
        ("detect <loc0000>", "contains `<`"),
        ("detect a\u2581b", "the vocabulary cannot represent the label"),
    ],
)
def test_prompts_without_a_form(model: PaliGemma, prompt: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        model.generate(IMAGE, prompt, constrained=True)


def test_it_is_true_or_false(model: PaliGemma) -> None:
    answer: Any = 1
    with pytest.raises(OptionError, match="constrained is 1, expected True or False"):
        model.generate(IMAGE, "detect cat", constrained=answer)

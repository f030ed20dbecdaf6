"""Constrained decoding: whatever the numbers are, the answer is whole objects of the labels asked for."""

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
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PROMPTS = ("detect cat ; dog", "segment cat", "detect circle", "segment red square ; square ; star", "detect")
# U+2581 stands for a space in the vocabulary, and comes back as one.
LETTERS = st.characters(exclude_characters="<;\u2581", codec="utf-8")
LABELS = st.lists(st.text(LETTERS, max_size=12), max_size=4)


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(request.param), device="cpu")


def labels_of(prompt: str) -> set[str]:
    return {label.strip() for label in prompt.partition(" ")[2].split(";")}


def test_random_weights_parse(model: PaliGemma) -> None:
    """500 answers of each model, greedy and drawn at every temperature, cut short and long."""
    written = 0
    for seed in range(100):
        prompts = [PROMPTS[(seed + row) % len(PROMPTS)] for row in range(5)]
        answers = model.generate_batch(
            [Request(PICTURE, prompt) for prompt in prompts],
            constrained=True,
            seed=seed,
            temperature=(0, 0.5, 1, 3)[seed % 4],
            max_new_tokens=(1, 5, 24, 40, 60)[seed % 5],
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            objects = parse_answer(answer.text)
            assert objects.warnings == ()
            assert {found.label for found in objects.found} <= labels_of(prompt)
            for found in objects.found:
                assert (found.codes is not None) == prompt.startswith("segment")
            assert "<loc" not in answer.text or objects.found  # nothing is lost in reading
            written += len(objects.found)
    assert written > 200  # and they are no empty answers


def test_without_it_ids_are_as_before(model: PaliGemma) -> None:
    plain = model.generate(PICTURE, "detect cat", max_new_tokens=20)
    said_no = model.generate(PICTURE, "detect cat", max_new_tokens=20, constrained=False)
    assert plain.token_ids == said_no.token_ids
    assert parse_answer(plain.text).found == ()  # a random model writes no objects by itself


def test_the_shipped_model_answers_as_without(shipped_bundle: Path) -> None:
    """It has learnt the form: constrained greedy ids are the free ones."""
    shipped = PaliGemma.load(shipped_bundle, device="cpu")
    scene = SCENE
    for prompt in ("detect circle ; star", "segment blue ring", "detect ring"):
        free, bound = (shipped.generate(scene, prompt, constrained=choice) for choice in (False, True))
        assert bound.token_ids == free.token_ids
        assert parse_answer(bound.text).found


@settings(deadline=None, max_examples=200)
@given(data=st.data(), labels=LABELS, left=st.integers(1, 80), task=st.sampled_from(["detect", "segment"]))
def test_any_walk_parses(
    model: PaliGemma, data: st.DataObject, labels: list[str], left: int, task: str
) -> None:
    """Hypothesis chooses among the allowed ids, and how many there may be."""
    stop = model.manifest.tokens.stop
    form, place, ids = (
        grammar_for_prompt(f"{task} {' ; '.join(labels)}", model.tokenizer, stop),
        GrammarState(),
        list[int](),
    )
    while left > len(ids):
        allowed = form.allowed(place, left - len(ids)).tolist()
        token = data.draw(st.sampled_from(allowed))
        if token in stop:
            break
        ids.append(token)
        place = form.after(place, token)
    objects = parse_answer(model.tokenizer.decode(ids))
    assert objects.warnings == ()
    assert {found.label for found in objects.found} <= {label.strip() for label in labels or [""]}
    sizes = {len(found.codes or ()) for found in objects.found}
    assert sizes <= {SEG_TOKENS_PER_MASK if task == "segment" else 0}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("caption en", "begin with `detect` or `segment`"),
        ("", "begin with `detect` or `segment`"),
        ("detect <loc0000>", "holds a `<`"),
        ("detect a\u2581b", "is not what the vocabulary gives back"),
    ],
)
def test_prompts_without_a_form(model: PaliGemma, prompt: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        model.generate(PICTURE, prompt, constrained=True)


def test_it_is_true_or_false(model: PaliGemma) -> None:
    answer: Any = 1
    with pytest.raises(OptionError, match="constrained is 1, expected True or False"):
        model.generate(PICTURE, "detect cat", constrained=answer)

"""Options, prompts and images in and out of their ranges, through the Python call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paligemma_onnx.runtime import ImageError, OptionError, PaliGemma, PromptError
from paligemma_onnx.runtime.bundle.schema import GenerationDefaults

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected 1 to 8192"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1, expected 1 to 8192"),
        ({"max_new_tokens": 10**9}, "expected 1 to 8192"),
        ({"max_new_tokens": 1e9}, "max_new_tokens is 1000000000.0, expected a whole number"),
        ({"max_new_tokens": True}, "expected a whole number"),
        ({"temperature": -0.1}, "temperature must be a finite number >= 0"),
        ({"temperature": np.nan}, "temperature"),
        ({"temperature": np.inf}, "temperature"),
        ({"top_p": 0}, "top_p must be a number > 0 and <= 1"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k must be a whole number >= 0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a finite number > 0"),
        ({"repetition_penalty": np.inf}, "repetition_penalty"),
        ({"suppress_tokens": 5}, "suppress_tokens must be a list or tuple of token ids"),
        ({"suppress_tokens": [1.5]}, "suppress_tokens must be a list"),
        ({"suppress_tokens": [-1]}, "suppress_tokens has the id -1, expected 0 to"),
        ({"suppress_tokens": [10**6]}, "suppress_tokens has the id 1000000"),
        ({"logprobs": 1}, "logprobs is 1, expected True or False"),
        ({"special_tokens": "yes"}, "special_tokens is 'yes', expected True or False"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"seed": 2**64}, "seed"),
        ({"max_image_pixels": 0}, "max_image_pixels is 0, expected a whole number of at least 1"),
        ({"top_q": 1}, "unknown option 'top_q'; known: max_new_tokens, temperature"),
    ],
)
def test_options_out_of_range(model: PaliGemma, options: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        model.generate(IMAGE, "caption en", **options)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_options_as_numpy_makes_them(model: PaliGemma) -> None:
    options: Any = {"max_new_tokens": np.int64(3), "seed": np.uint64(7), "temperature": np.float32(1)}
    answer = model.generate(IMAGE, "", **options)
    assert (len(answer.token_ids), answer.seed) == (3, 7)


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "2"])
def test_threads_out_of_range(bundle: Folders, threads: Any) -> None:
    with pytest.raises(OptionError, match="expected 1 to 256"):
        PaliGemma.load(bundle(CASE), threads=threads)


@pytest.mark.parametrize("images", [[], (), None, 3, [None]])
def test_no_images(model: PaliGemma, images: Any) -> None:
    with pytest.raises(ValueError, match=r"no image given|an image cannot be of type"):
        model.generate(images, "caption en")


@pytest.mark.parametrize(
    "prompt", ["", "nul \0 nul", "<bo><eo><loc0001><image", "שלום", "👩🏽‍🚀", "\u202eabc", " "]
)
def test_strange_prompts_are_answered(model: PaliGemma, prompt: str) -> None:
    answer = model.generate(IMAGE, prompt, max_new_tokens=2)
    assert answer.prompt_tokens >= 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("x" * 2**20, "shorten it"),
        ("half \ud83d", "surrogate U"),
        (b"bytes", "must be text"),
        ("<bos><eos>", "contains the control token <eos>"),
        ("caption <image>", "contains the control token <image>"),
        ("<image><image>caption", "begins with 2 <image>, but 1 image is given"),
    ],
)
def test_prompts_that_cannot_be(model: PaliGemma, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.generate(IMAGE, prompt)


def test_an_image_opened_ahead(model: PaliGemma, bundle: Folders) -> None:
    opened = model.open(IMAGE)
    assert (opened.width, opened.height) == (50, 40)
    assert (
        model.generate(opened, "", max_new_tokens=3).text == model.generate(IMAGE, "", max_new_tokens=3).text
    )
    other = PaliGemma.load(bundle("gemma_two_kv_heads"), device="cpu")
    with pytest.raises(ImageError, match="was opened for a bundle of 28 pixels, this bundle has 56"):
        other.generate(opened, "")


def test_a_prompt_written_for_transformers(model: PaliGemma) -> None:
    """`<image>` once per image: the answer is that to the same prompt without it."""
    for images in (IMAGE, [IMAGE, IMAGE[::2]]):
        count = len(images) if isinstance(images, list) else 1
        plain = model.generate(images, "caption en", max_new_tokens=4)
        answer = model.generate(images, f"{'<image>' * count}caption en", max_new_tokens=4)
        assert (answer.token_ids, answer.prompt_tokens) == (plain.token_ids, plain.prompt_tokens)
    constrained = model.generate(IMAGE, "<image>detect cat", constrained=True, max_new_tokens=9)
    assert constrained.prompt_tokens == model.generate(IMAGE, "detect cat", max_new_tokens=1).prompt_tokens


def test_suppressed_tokens_with_constraints(model: PaliGemma) -> None:
    """The form of the answer has priority: an id is suppressed if the grammar allows another."""
    plain = model.generate(IMAGE, "detect cat", constrained=True, max_new_tokens=30)
    stop = list(model.manifest.tokens.stop)
    other = model.generate(
        IMAGE, "detect cat", constrained=True, max_new_tokens=30, suppress_tokens=[*stop, *plain.token_ids]
    )
    assert other.text.startswith("<loc")
    assert other.token_ids[0] not in (*stop, *plain.token_ids)
    assert " cat" in other.text  # the only label: it cannot be suppressed


def test_defaults_of_the_bundle(model: PaliGemma) -> None:
    """An option that is given overrides the bundle's default; what is not given has it."""
    defaults = GenerationDefaults(3, temperature=2.0, top_k=9, repetition_penalty=5.0, suppress_tokens=(7,))
    manifest = replace(model.manifest, generation=defaults)
    changed = PaliGemma(manifest, model.tokenizer, model.runner, 0.0)
    explicit: Any = {
        "max_new_tokens": 3,
        "temperature": 2.0,
        "top_k": 9,
        "repetition_penalty": 5.0,
        "suppress_tokens": [7],
        "seed": 5,
    }
    assert (
        changed.generate(IMAGE, "caption en", seed=5).token_ids
        == model.generate(IMAGE, "caption en", **explicit).token_ids
    )
    plain: Any = {"max_new_tokens": 5, "temperature": 0, "repetition_penalty": 1, "suppress_tokens": ()}
    greedy = model.generate(IMAGE, "caption en", max_new_tokens=5).token_ids
    assert changed.generate(IMAGE, "caption en", **plain).token_ids == greedy

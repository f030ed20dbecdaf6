"""Answers from scripted logits and from real graphs: ends, text, seeds, and how often the graphs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import copy_folder, disable_stop_ids, edit_manifest
from PIL import Image
from scripted_runner import STOP, ids_of, scripted_model

from paligemma_onnx.runtime import NumericsError, OptionError, PaliGemma, PromptError, Request, ResourceError
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu")


def test_a_stop_id_ends_and_is_not_shown(model: PaliGemma) -> None:
    ids = ids_of(model, "left of red")
    answer = scripted_model(model, [*ids, STOP]).generate(IMAGES[0], "caption en", max_new_tokens=50)
    assert (answer.text, answer.finish_reason) == ("left of red", "stop")
    assert list(answer.token_ids) == ids
    assert answer.prompt_tokens == len(ids_of(model, "caption en")) + 2
    assert answer.image_tokens == model.manifest.image.tokens


def test_stopping_at_once_is_an_empty_answer(model: PaliGemma) -> None:
    answer = scripted_model(model, [STOP]).generate(IMAGES[0], "")
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "stop")
    assert answer.timings.tokens_per_second == 0
    assert list(scripted_model(model, [STOP]).stream(IMAGES[0], "")) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_max_new_tokens(model: PaliGemma, count: int) -> None:
    ids = ids_of(model, "left of red, right of blue")[:5]
    scripted = scripted_model(model, ids)
    answer = scripted.generate(IMAGES[0], "caption en", max_new_tokens=count)
    assert (list(answer.token_ids), answer.finish_reason) == (ids[:count], "length")
    runner: Any = scripted.runner
    assert runner.steps == count - 1  # no step whose logits are not used


def test_every_stop_id_counts(model: PaliGemma) -> None:
    first, second = ids_of(model, "left")[0], ids_of(model, "of")[0]
    scripted = scripted_model(model, [first, second])
    tokens = replace(scripted.manifest.tokens, stop=(*scripted.manifest.tokens.stop, second))
    runner: Any = scripted.runner
    runner.manifest = replace(scripted.manifest, tokens=tokens)
    assert scripted.generate(IMAGES[0], "").token_ids == (first,)


def test_the_bundle_says_how_long_an_answer_is_by_default(model: PaliGemma) -> None:
    answer = scripted_model(model, ids_of(model, "left")).generate(IMAGES[0], "")
    assert len(answer.token_ids) == model.manifest.generation.max_new_tokens


def test_the_context_ends_an_answer(model: PaliGemma) -> None:
    """Image, prompt and answer fill the context to the last slot."""
    for free in (1, 3):
        image, prompt = model.manifest.image.tokens, len(ids_of(model, "caption en")) + 2
        scripted = scripted_model(model, ids_of(model, "left"), context_length=image + prompt + free)
        answer = scripted.generate(IMAGES[0], "caption en", max_new_tokens=free + 1)
        assert (len(answer.token_ids), answer.finish_reason) == (free, "length")


@pytest.mark.parametrize(
    ("max_new_tokens", "free", "slots"),
    [
        (1, 100, 1),
        (9, 100, 9),
        (9, 9, 9),
        (9, 8, 8),  # the context is full before the answer is
        (50, 1, 1),
    ],
)
def test_the_cache_has_slots_for_the_longest_row_and_its_answer(
    model: PaliGemma, max_new_tokens: int, free: int, slots: int
) -> None:
    """At most as many as the context; the shorter row may continue."""
    ids = ids_of(model, "left of red, right of blue")
    prefix = model.manifest.image.tokens + len(ids_of(model, "caption en")) + 2
    scripted = scripted_model(model, ids[:slots], ids, context_length=prefix + free)
    # The check of the options must not refuse the request before the decode loop reaches the context.
    scripted.manifest = replace(
        scripted.manifest, model=replace(scripted.manifest.model, context_length=8192)
    )
    requests = [Request(IMAGES[0], "caption en"), Request(IMAGES[1], "")]
    scripted.generate_batch(requests, max_new_tokens=max_new_tokens)
    runner: Any = scripted.runner
    assert runner.slots == prefix + slots


def test_the_context_of_a_real_bundle(bundle: Folders, tmp_path: Path) -> None:
    folder = copy_folder(bundle(CASE), tmp_path / "bundle")

    def change(manifest: dict[str, Any]) -> None:
        disable_stop_ids(manifest)
        manifest["model"]["context_length"] = manifest["generation"]["max_new_tokens"] = 20

    edit_manifest(folder, change)
    model = PaliGemma.load(folder, device="cpu")
    answer = model.generate(IMAGES[0], "caption en")
    assert answer.image_tokens + answer.prompt_tokens + len(answer.token_ids) == 20
    assert answer.finish_reason == "length"
    with pytest.raises(PromptError, match=r"tokens.*left for it"):
        model.generate(IMAGES[0], "left " * 12)
    with pytest.raises(PromptError, match=r"5 images take 20 tokens, the context has 20"):
        model.generate([IMAGES[0]] * 5, "")
    with pytest.raises(OptionError, match="expected 1 to 20, the context length"):
        model.generate(IMAGES[0], "", max_new_tokens=21)


def test_rows_end_each_on_its_own(model: PaliGemma) -> None:
    longer, shorter = ids_of(model, "left of red"), ids_of(model, "right")
    scripted = scripted_model(model, [*longer, STOP], [*shorter, STOP, *longer])
    answers = scripted.generate_batch(
        [Request(IMAGES[0], "caption en"), Request(IMAGES[1], "answer en what is it?")], max_new_tokens=50
    )
    assert [answer.text for answer in answers] == ["left of red", "right"]
    assert [answer.finish_reason for answer in answers] == ["stop", "stop"]
    runner: Any = scripted.runner
    assert runner.steps == len(longer)


def test_no_requests_no_answers(model: PaliGemma) -> None:
    assert model.generate_batch([]) == []


@pytest.mark.parametrize(
    ("logits", "message"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "no finite"), ([np.nan] + [0] * 655, "NaN")],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}])
def test_logits_that_are_no_numbers(model: PaliGemma, logits: Any, message: str, options: Any) -> None:
    """Reported at the first step, with advice."""
    scripted = scripted_model(model, [logits])
    with pytest.raises(NumericsError, match=rf"{message}.*use precision fp32 or bf16") as caught:
        scripted.generate(IMAGES[0], "caption en", **options)
    assert "this bundle is fp32: `paligemma-onnx export --strict`" in str(caught.value)
    runner: Any = scripted.runner
    assert runner.steps == 0


def test_logits_that_cease_to_be_numbers(model: PaliGemma) -> None:
    """The text generated before remains."""
    stream = scripted_model(model, [*ids_of(model, "left"), np.nan]).stream(IMAGES[0], "caption en")
    with pytest.raises(NumericsError):
        list(stream)
    assert stream.result.text == "left"


def test_a_half_precision_bundle_is_not_told_that_it_is_fp32(model: PaliGemma) -> None:
    scripted = scripted_model(model, [np.nan])
    runner: Any = scripted.runner
    runner.manifest = replace(scripted.manifest, precision=replace(scripted.manifest.precision, name="fp16"))
    with pytest.raises(NumericsError, match=r"use precision fp32 or bf16 instead$"):
        scripted.generate(IMAGES[0], "")


def test_memory_that_runs_out_is_a_resource_error(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(OnnxModelRunner, "prefill", fail)
    with pytest.raises(ResourceError, match="this request: out of memory"):
        model.generate(IMAGES[0], "")


@pytest.mark.parametrize(
    "text",
    ["你好", "👩🏽‍🚀🇨🇭", "שלום", "a\u0301", "naïve 你 café"],
)
def test_characters_come_whole(model: PaliGemma, text: str) -> None:
    """The pieces join to the text, and each has whole characters, although some ids are bytes."""
    ids = ids_of(model, text)
    assert any(token in model.tokenizer.byte_values for token in ids)
    stream = scripted_model(model, [*ids, STOP]).stream(IMAGES[0], "", max_new_tokens=99)
    pieces = list(stream)
    assert "".join(pieces) == text == stream.result.text
    assert all(piece and "\ufffd" not in piece for piece in pieces)


def test_half_a_character_at_the_end_becomes_a_stand_in(model: PaliGemma) -> None:
    ids = ids_of(model, "x👩")
    for length in range(2, len(ids)):
        stream = scripted_model(model, [*ids[:length], STOP]).stream(IMAGES[0], "")
        assert "".join(stream) == stream.result.text == "x\ufffd"


def test_half_a_character_when_it_is_cancelled(model: PaliGemma) -> None:
    ids, cancel = ids_of(model, "x👩"), Cancellation()
    scripted = scripted_model(model, ids[:3])
    runner: Any = scripted.runner
    decode = runner.decode

    def cancelling(*arguments: Any) -> Any:
        if runner.steps == 1:
            cancel.cancel()
        return decode(*arguments)

    runner.decode = cancelling
    stream = scripted.stream(IMAGES[0], "", cancel=cancel)
    assert "".join(stream) == stream.result.text == "x\ufffd"
    assert stream.result.finish_reason == "cancelled"


def test_a_seed_repeats_an_answer(model: PaliGemma) -> None:
    def ask(**options: Any) -> tuple[int, ...]:
        return model.generate(
            IMAGES[0], "caption en", temperature=1.0, max_new_tokens=12, **options
        ).token_ids

    assert ask(seed=5) == ask(seed=5)
    assert len({ask(seed=seed) for seed in range(4)}) == 4
    drawn = model.generate(IMAGES[0], "caption en", temperature=1.0, max_new_tokens=12)
    assert ask(seed=drawn.seed) == drawn.token_ids


def test_a_row_of_a_batch_is_the_request_alone(model: PaliGemma) -> None:
    """With seed + r, padded to longer rows, and with rows of more images; seeds wrap around."""
    requests = [
        Request(IMAGES[0], "caption en"),
        Request(list(IMAGES[:2]), "answer en what is left of it?"),
        Request(IMAGES[2], ""),
        Request([IMAGES[2], IMAGES[1]], "detect red ; blue"),
    ]
    for seed in (7, 2**64 - 2):
        options: Any = {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 12}
        together = model.generate_batch(requests, seed=seed, **options)
        for row, (request, answer) in enumerate(zip(requests, together, strict=True)):
            alone = model.generate(request.images, request.prompt, seed=(seed + row) % 2**64, **options)
            assert answer.token_ids == alone.token_ids
            assert answer.text == alone.text
            assert (answer.seed, answer.image_tokens) == (alone.seed, alone.image_tokens)


def test_streamed_pieces_join_to_the_text(model: PaliGemma) -> None:
    for seed in range(8):
        stream = model.stream(IMAGES[0], "caption en", temperature=1.0, seed=seed, max_new_tokens=40)
        assert "".join(stream) == stream.result.text
        whole = model.generate(IMAGES[0], "caption en", temperature=1.0, seed=seed, max_new_tokens=40)
        assert (stream.result.text, stream.result.token_ids) == (whole.text, whole.token_ids)


def test_each_different_image_is_encoded_once(model: PaliGemma, tmp_path: Path) -> None:
    """Given as path, link, array, Pillow image or bytes, in one row or in several."""
    path, link = tmp_path / "one.png", tmp_path / "link.png"
    Image.fromarray(IMAGES[0]).save(path)
    link.symlink_to(path)
    same = [str(path), path, link, path.read_bytes(), IMAGES[0], IMAGES[0].copy(), Image.open(path)]
    scripted = scripted_model(model, [STOP], [STOP])
    scripted.generate_batch([Request([*same, IMAGES[1]], "a"), Request([*same, IMAGES[1]], "b")])
    runner: Any = scripted.runner
    assert runner.images == 2
    scripted.generate_batch([Request(image, "a") for image in IMAGES[:2]])
    assert runner.images == 4


def test_images_made_by_a_generator_are_not_mistaken(model: PaliGemma) -> None:
    """Memory of an earlier image may be reused for a later one while requests are made one by one."""
    requests: Any = (Request(image + np.uint8(0), "caption en") for image in IMAGES)
    together = model.generate_batch(requests, max_new_tokens=8)
    alone = [model.generate(image, "caption en", max_new_tokens=8) for image in IMAGES]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({answer.token_ids for answer in alone}) == 3  # so that a mistake is visible


def test_the_vision_graph_does_not_run_again_for_tokens(model: PaliGemma) -> None:
    scripted = scripted_model(model, ids_of(model, "left"))
    scripted.generate([IMAGES[0], IMAGES[1]], "", max_new_tokens=20)
    runner: Any = scripted.runner
    assert (runner.images, runner.steps) == (2, 19)

"""From logits to answers: why they end, what they hold, what repeats them, and how often the graphs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import copied, edit_manifest, endless
from PIL import Image
from scripted_runner import STOP, ids_of, scripted_model

from paligemma_onnx.runtime import NumericsError, OptionError, PaliGemma, PromptError, Request, ResourceError
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu")


def test_a_stop_id_ends_and_is_not_shown(model: PaliGemma) -> None:
    words = ids_of(model, "left of red")
    answer = scripted_model(model, [*words, STOP]).generate(PICTURES[0], "caption en", max_new_tokens=50)
    assert (answer.text, answer.finish_reason) == ("left of red", "stop")
    assert list(answer.token_ids) == words
    assert answer.prompt_tokens == len(ids_of(model, "caption en")) + 2
    assert answer.image_tokens == model.manifest.image.tokens


def test_stopping_at_once_is_an_empty_answer(model: PaliGemma) -> None:
    answer = scripted_model(model, [STOP]).generate(PICTURES[0], "")
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "stop")
    assert answer.timings.tokens_per_second == 0
    assert list(scripted_model(model, [STOP]).stream(PICTURES[0], "")) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_max_new_tokens(model: PaliGemma, count: int) -> None:
    words = ids_of(model, "left of red, right of blue")[:5]
    talker = scripted_model(model, words)
    answer = talker.generate(PICTURES[0], "caption en", max_new_tokens=count)
    assert (list(answer.token_ids), answer.finish_reason) == (words[:count], "length")
    runner: Any = talker.runner
    assert runner.steps == count - 1  # no step whose logits nobody wants


def test_every_stop_id_counts(model: PaliGemma) -> None:
    first, second = ids_of(model, "left")[0], ids_of(model, "of")[0]
    talker = scripted_model(model, [first, second])
    tokens = replace(talker.manifest.tokens, stop=(*talker.manifest.tokens.stop, second))
    runner: Any = talker.runner
    runner.manifest = replace(talker.manifest, tokens=tokens)
    assert talker.generate(PICTURES[0], "").token_ids == (first,)


def test_the_bundle_says_how_long_an_answer_is_by_default(model: PaliGemma) -> None:
    answer = scripted_model(model, ids_of(model, "left")).generate(PICTURES[0], "")
    assert len(answer.token_ids) == model.manifest.generation.max_new_tokens


def test_the_context_ends_an_answer(model: PaliGemma) -> None:
    """Image, prompt and answer fill it to the last slot, in the real graphs."""
    for room in (1, 3):
        image, prompt = model.manifest.image.tokens, len(ids_of(model, "caption en")) + 2
        talker = scripted_model(model, ids_of(model, "left"), context_length=image + prompt + room)
        answer = talker.generate(PICTURES[0], "caption en", max_new_tokens=room + 1)
        assert (len(answer.token_ids), answer.finish_reason) == (room, "length")


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
def test_the_cache_has_room_for_the_longest_row_and_its_answer(
    model: PaliGemma, max_new_tokens: int, free: int, slots: int
) -> None:
    """As far as the context reaches; the shorter row may go on beside it."""
    words = ids_of(model, "left of red, right of blue")
    prefix = model.manifest.image.tokens + len(ids_of(model, "caption en")) + 2
    talker = scripted_model(model, words[:slots], words, context_length=prefix + free)
    # The request passes the check of its options, so that the loop meets the context.
    talker.manifest = replace(talker.manifest, model=replace(talker.manifest.model, context_length=8192))
    requests = [Request(PICTURES[0], "caption en"), Request(PICTURES[1], "")]
    talker.generate_batch(requests, max_new_tokens=max_new_tokens)
    runner: Any = talker.runner
    assert runner.slots == prefix + slots


def test_the_context_of_a_real_bundle(bundle: Folders, tmp_path: Path) -> None:
    folder = copied(bundle(CASE), tmp_path / "bundle")

    def change(manifest: dict[str, Any]) -> None:
        endless(manifest)
        manifest["model"]["context_length"] = manifest["generation"]["max_new_tokens"] = 20

    edit_manifest(folder, change)
    model = PaliGemma.load(folder, device="cpu")
    answer = model.generate(PICTURES[0], "caption en")
    assert answer.image_tokens + answer.prompt_tokens + len(answer.token_ids) == 20
    assert answer.finish_reason == "length"
    with pytest.raises(PromptError, match=r"tokens.*left for it"):
        model.generate(PICTURES[0], "left " * 12)
    with pytest.raises(PromptError, match=r"5 images take 20 tokens, the context has 20"):
        model.generate([PICTURES[0]] * 5, "")
    with pytest.raises(OptionError, match="expected 1 to 20, the context length"):
        model.generate(PICTURES[0], "", max_new_tokens=21)


def test_rows_end_each_on_its_own(model: PaliGemma) -> None:
    one, two = ids_of(model, "left of red"), ids_of(model, "right")
    talker = scripted_model(model, [*one, STOP], [*two, STOP, *one])
    answers = talker.generate_batch(
        [Request(PICTURES[0], "caption en"), Request(PICTURES[1], "answer en what is it?")], max_new_tokens=50
    )
    assert [answer.text for answer in answers] == ["left of red", "right"]
    assert [answer.finish_reason for answer in answers] == ["stop", "stop"]
    runner: Any = talker.runner
    assert runner.steps == len(one)


def test_no_requests_no_answers(model: PaliGemma) -> None:
    assert model.generate_batch([]) == []


@pytest.mark.parametrize(
    ("logits", "words"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "no finite"), ([np.nan] + [0] * 655, "NaN")],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}])
def test_logits_that_are_no_numbers(model: PaliGemma, logits: Any, words: str, options: Any) -> None:
    """Seen at the first step, and what to do is said."""
    talker = scripted_model(model, [logits])
    with pytest.raises(NumericsError, match=rf"{words}.*use precision fp32 or bf16") as caught:
        talker.generate(PICTURES[0], "caption en", **options)
    assert "this bundle is fp32: `paligemma-onnx export --strict`" in str(caught.value)
    runner: Any = talker.runner
    assert runner.steps == 0


def test_logits_that_cease_to_be_numbers(model: PaliGemma) -> None:
    """What was written before stays."""
    stream = scripted_model(model, [*ids_of(model, "left"), np.nan]).stream(PICTURES[0], "caption en")
    with pytest.raises(NumericsError):
        list(stream)
    assert stream.result.text == "left"


def test_a_half_precision_bundle_is_not_told_that_it_is_fp32(model: PaliGemma) -> None:
    talker = scripted_model(model, [np.nan])
    runner: Any = talker.runner
    runner.manifest = replace(talker.manifest, precision=replace(talker.manifest.precision, name="fp16"))
    with pytest.raises(NumericsError, match=r"use precision fp32 or bf16 instead$"):
        talker.generate(PICTURES[0], "")


def test_memory_that_runs_out_is_a_resource_error(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(OnnxModelRunner, "prefill", fail)
    with pytest.raises(ResourceError, match="this request: out of memory"):
        model.generate(PICTURES[0], "")


@pytest.mark.parametrize(
    "text",
    ["你好", "👩🏽‍🚀🇨🇭", "שלום", "a\u0301", "naïve 你 café"],
)
def test_characters_come_whole(model: PaliGemma, text: str) -> None:
    """Pieces join to the text, and none holds a part of a character, though some ids are bytes."""
    ids = ids_of(model, text)
    assert any(token in model.tokenizer.byte_values for token in ids)
    stream = scripted_model(model, [*ids, STOP]).stream(PICTURES[0], "", max_new_tokens=99)
    pieces = list(stream)
    assert "".join(pieces) == text == stream.result.text
    assert all(piece and "\ufffd" not in piece for piece in pieces)


def test_half_a_character_at_the_end_becomes_a_stand_in(model: PaliGemma) -> None:
    ids = ids_of(model, "x👩")
    for kept in range(2, len(ids)):
        stream = scripted_model(model, [*ids[:kept], STOP]).stream(PICTURES[0], "")
        assert "".join(stream) == stream.result.text == "x\ufffd"


def test_half_a_character_when_it_is_cancelled(model: PaliGemma) -> None:
    ids, cancel = ids_of(model, "x👩"), Cancellation()
    talker = scripted_model(model, ids[:3])
    runner: Any = talker.runner
    decode = runner.decode

    def cancelling(*arguments: Any) -> Any:
        if runner.steps == 1:
            cancel.cancel()
        return decode(*arguments)

    runner.decode = cancelling
    stream = talker.stream(PICTURES[0], "", cancel=cancel)
    assert "".join(stream) == stream.result.text == "x\ufffd"
    assert stream.result.finish_reason == "cancelled"


def test_a_seed_repeats_an_answer(model: PaliGemma) -> None:
    def ask(**options: Any) -> tuple[int, ...]:
        return model.generate(
            PICTURES[0], "caption en", temperature=1.0, max_new_tokens=12, **options
        ).token_ids

    assert ask(seed=5) == ask(seed=5)
    assert len({ask(seed=seed) for seed in range(4)}) == 4
    drawn = model.generate(PICTURES[0], "caption en", temperature=1.0, max_new_tokens=12)
    assert ask(seed=drawn.seed) == drawn.token_ids


def test_a_row_of_a_batch_is_the_request_alone(model: PaliGemma) -> None:
    """With seed + r, padded to longer neighbours, and beside rows with more pictures; seeds wrap."""
    requests = [
        Request(PICTURES[0], "caption en"),
        Request(list(PICTURES[:2]), "answer en what is left of it?"),
        Request(PICTURES[2], ""),
        Request([PICTURES[2], PICTURES[1]], "detect red ; blue"),
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
        stream = model.stream(PICTURES[0], "caption en", temperature=1.0, seed=seed, max_new_tokens=40)
        assert "".join(stream) == stream.result.text
        whole = model.generate(PICTURES[0], "caption en", temperature=1.0, seed=seed, max_new_tokens=40)
        assert (stream.result.text, stream.result.token_ids) == (whole.text, whole.token_ids)


def test_each_different_picture_is_encoded_once(model: PaliGemma, tmp_path: Path) -> None:
    """Whether it comes as path, link, array, Pillow image or bytes, in one row or in several."""
    path, link = tmp_path / "one.png", tmp_path / "link.png"
    Image.fromarray(PICTURES[0]).save(path)
    link.symlink_to(path)
    same = [str(path), path, link, path.read_bytes(), PICTURES[0], PICTURES[0].copy(), Image.open(path)]
    talker = scripted_model(model, [STOP], [STOP])
    talker.generate_batch([Request([*same, PICTURES[1]], "a"), Request([*same, PICTURES[1]], "b")])
    runner: Any = talker.runner
    assert runner.images == 2
    talker.generate_batch([Request(picture, "a") for picture in PICTURES[:2]])
    assert runner.images == 4


def test_pictures_made_on_the_way_are_not_mistaken(model: PaliGemma) -> None:
    """Requests may be made one by one; memory of an earlier picture is then used again for a later one."""
    made: Any = (Request(picture + np.uint8(0), "caption en") for picture in PICTURES)
    together = model.generate_batch(made, max_new_tokens=8)
    alone = [model.generate(picture, "caption en", max_new_tokens=8) for picture in PICTURES]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({answer.token_ids for answer in alone}) == 3  # so that a mistake would show


def test_the_vision_graph_does_not_run_again_for_tokens(model: PaliGemma) -> None:
    talker = scripted_model(model, ids_of(model, "left"))
    talker.generate([PICTURES[0], PICTURES[1]], "", max_new_tokens=20)
    runner: Any = talker.runner
    assert (runner.images, runner.steps) == (2, 19)

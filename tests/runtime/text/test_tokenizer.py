"""Prompts compared with transformers' PaliGemmaProcessor, answers with the `tokenizers` library's decoder."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_tokenizer import build_sample_tokenizer
from tokenizers import Tokenizer
from transformers import PaliGemmaProcessor

from paligemma_onnx.runtime.errors import BundleError, PromptError
from paligemma_onnx.runtime.text.special_tokens import BOS, EOS, IMAGE, PAD
from paligemma_onnx.runtime.text.tokenizer import Detokenizer, PromptTokenizer
from training.published_layout import write_processor_files

MAX_TOKENS = 4096  # tokens, more than any prompt here needs
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # an emoji joined from four
HAND_WRITTEN = [
    "",
    " ",
    "    ",
    "\n",
    "\n\n",
    "caption en",
    "caption en\n",
    "caption en\n\n\n",
    "\ncaption en",
    "two\nlines",
    "two\n\n\n\n\n\nlines \n ",
    " leading",
    "trailing ",
    "   many   spaces   ",
    "tab\there\r\n",
    "\0",
    "nul\0inside",
    "\x7f\x1b[0m",
    "answer en how many cats are there?",
    "detect cat ; dog",
    "segment the red circle",
    "<loc0000><loc0512><loc1023><loc0001> cat",
    "x<loc0007> y <seg000><seg127>",
    "<loc1024><loc12><seg128>< loc0001>",
    "<mask> a <mask>",
    "<0x41><0xE2>",
    "▁ ▁▁ a▁b",
    "größer, naïve, señor",
    "e\u0301 is not \u00e9",
    "猫と犬",
    "кот",
    "مرحبا بالعالم",
    "שלום \u202bעולם\u202c",
    FAMILY,
    f"a {FAMILY}{FAMILY} b \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\U0010ffff\ufffd\ufeff",
    "a" * 3000,
    "größer" * 300,
    "<",
    "<bo",
    "bos>",
]
ALPHABETS = [
    "abc etinor",
    " \n\t",
    "<>/loc0123seg ",
    "aé猫\U0001f600 ▁",
    "".join(map(chr, range(0x590, 0x700))),
]


def prompts() -> list[str]:
    """Return the prompts above and random ones, 200 in all."""
    rng = random.Random(0)
    drawn = [
        "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(1, 60)))
        for _ in range(200 - len(HAND_WRITTEN))
    ]
    return HAND_WRITTEN + drawn


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompt_ids_are_those_of_transformers(tmp_path: Path, adds_bos: bool) -> None:
    write_processor_files(tmp_path, build_sample_tokenizer(adds_bos=adds_bos), image_size=28)
    tokenizer = PromptTokenizer.load(tmp_path / "tokenizer.json")
    processor = PaliGemmaProcessor.from_pretrained(tmp_path)
    image = Image.new("RGB", (28, 28))
    for prompt in prompts():
        reference = processor(images=image, text=f"<image>{prompt}")["input_ids"][0]
        assert reference[:4] == [tokenizer.image_id] * 4  # 28 px are 2 x 2 patches of 14
        assert list(tokenizer.encode(prompt, MAX_TOKENS)) == reference[4:], repr(prompt)


def test_empty_prompt_is_bos_and_newline(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode("", 2) == (tokenizer.bos_id, tokenizer.newline_id)


def test_prompt_and_newline_are_tokenised_together(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.encode("\n", MAX_TOKENS) == (tokenizer.bos_id, tokenizer.token_id("\n\n"))


def test_ids_follow_paligemma(tokenizer: PromptTokenizer) -> None:
    assert [tokenizer.token_id(piece) for piece in (PAD, EOS, BOS, "<unk>")] == [0, 1, 2, 3]
    assert [tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id] == [0, 1, 2]
    first = tokenizer.token_id("<loc0000>")
    assert tokenizer.token_id("<loc1023>") == first + 1023
    assert tokenizer.token_id("<seg000>") == first + 1024
    assert tokenizer.token_id(IMAGE) == tokenizer.image_id == first + 1152 == tokenizer.size - 1
    with pytest.raises(BundleError, match="'<loc9999>'"):
        tokenizer.token_id("<loc9999>")


@pytest.mark.parametrize("control", [IMAGE, BOS, EOS, PAD, "<unk>"])
def test_a_prompt_with_a_control_token_is_refused(tokenizer: PromptTokenizer, control: str) -> None:
    for prompt in (
        f"caption{control}en",
        f"<loc0003>{control * 3} {control}\n",
        f"<{control}>",
        f" {control}",
    ):
        with pytest.raises(PromptError, match=f"contains the control token {control}; remove it"):
            tokenizer.encode(prompt, MAX_TOKENS)


def test_locations_and_segments_stay_single_tokens(tokenizer: PromptTokenizer) -> None:
    expected = [tokenizer.token_id(piece) for piece in (BOS, "<loc0123>", "<seg001>", "\n")]
    assert list(tokenizer.encode("<loc0123><seg001>", MAX_TOKENS)) == expected


def test_control_token_built_by_merges_is_refused(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    for piece, unneeded in (("<b", "▁circle"), ("<bo", "▁square"), ("<bos", "▁there")):
        vocabulary[piece] = vocabulary.pop(unneeded)
    document["model"]["merges"] = [["<", "b"], ["<b", "o"], ["<bo", "s"], ["<bos", ">"]]
    odd = PromptTokenizer.load(_write(tmp_path, document))
    with pytest.raises(PromptError, match="control token"):
        odd.encode("a <bos>", MAX_TOKENS)


@pytest.mark.parametrize("prompt", ["\ud83d", "cat \udc00", "\ude00\ud83d"])
def test_lone_surrogates_are_refused(tokenizer: PromptTokenizer, prompt: str) -> None:
    with pytest.raises(PromptError, match=r"surrogate U\+D[0-9A-F]{3}.* at position"):
        tokenizer.encode(prompt, MAX_TOKENS)


@pytest.mark.parametrize("prompt", [None, b"caption", 3, ["caption"]])
def test_prompt_must_be_text(tokenizer: PromptTokenizer, prompt: Any) -> None:
    with pytest.raises(PromptError, match="must be text"):
        tokenizer.encode(prompt, MAX_TOKENS)


def test_a_megabyte_is_refused_before_tokenising(tokenizer: PromptTokenizer) -> None:
    nothing: Any = None
    without_library = replace(tokenizer, library=nothing)  # tokenising would raise AttributeError
    with pytest.raises(PromptError, match=r"1000000 bytes.* 256 tokens .* at most \d+ bytes"):
        without_library.encode("a " * 500_000, 256)
    limit = 256 * tokenizer.max_token_bytes
    with pytest.raises(PromptError, match=f"{limit + 1} bytes"):
        without_library.encode("a" * (limit + 1), 256)


def test_limit_in_tokens(tokenizer: PromptTokenizer) -> None:
    length = len(tokenizer.encode("what is in the picture", MAX_TOKENS))
    assert len(tokenizer.encode("what is in the picture", length)) == length
    with pytest.raises(PromptError, match=f"{length} tokens long.* {length - 1} are left"):
        tokenizer.encode("what is in the picture", length - 1)


@pytest.mark.slow
@given(prompt=st.text(max_size=60), max_tokens=st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_what_fits_in_tokens_is_never_refused_for_its_bytes(
    tokenizer: PromptTokenizer, prompt: str, max_tokens: int
) -> None:
    length = len(tokenizer.encode(prompt, MAX_TOKENS))
    if length <= max_tokens:
        assert len(tokenizer.encode(prompt, max_tokens)) == length
    else:
        with pytest.raises(PromptError):
            tokenizer.encode(prompt, max_tokens)


def stream(tokenizer: PromptTokenizer, ids: list[int]) -> list[str]:
    """Return the text of each id, and of the end."""
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@given(text=st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_streamed_text_is_the_library_s(tokenizer: PromptTokenizer, library: Any, text: str) -> None:
    ids = list(tokenizer.encode(text, MAX_TOKENS))
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == library.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert "".join(pieces) == text.replace("▁", " ") + "\n"
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_ids_of_whole_characters_decode_as_the_library_does(
    tokenizer: PromptTokenizer, library: Any, data: st.DataObject
) -> None:
    whole = st.text(min_size=1, max_size=2).map(
        lambda text: [tokenizer.token_id(f"<0x{byte:02X}>") for byte in text.encode()]
    )
    other = st.integers(0, tokenizer.size + 20).filter(lambda token: token not in tokenizer.byte_values)
    ids = [token for part in data.draw(st.lists(whole | other.map(lambda token: [token]))) for token in part]
    assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_joined_emoji_come_out_character_by_character(tokenizer: PromptTokenizer) -> None:
    text = f"a {FAMILY} b"
    ids = list(tokenizer.encode(text, MAX_TOKENS))
    assert len(ids) > len(text.encode())  # each byte of the emoji is a token
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == f"{text}\n"
    assert [piece for piece in pieces if piece in FAMILY and piece] == list(FAMILY)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xe2\x82", "\ufffd"),  # the library writes one per byte
        (b"\xe2\x82\xac\xff", "\u20ac\ufffd"),  # the library replaces the euro sign, too
        (b"\xff\xff", "\ufffd\ufffd"),
        (b"\xf0\x9f\x98A", "\ufffdA"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate is not a character of UTF-8
    ],
)
def test_bytes_that_are_no_character(tokenizer: PromptTokenizer, data: bytes, expected: str) -> None:
    assert tokenizer.decode([tokenizer.token_id(f"<0x{byte:02X}>") for byte in data]) == expected


def test_half_a_character_is_given_up_when_another_piece_follows(tokenizer: PromptTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer.token_id("<0xE2>")) == ""
    assert detokenizer.push(tokenizer.token_id("<loc0001>")) == "\ufffd<loc0001>"
    assert detokenizer.push(tokenizer.token_id("<0xE2>")) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_control_token_within_a_character(tokenizer: PromptTokenizer, library: Any) -> None:
    ids = [tokenizer.token_id(piece) for piece in ("<0xE2>", "<0x82>", PAD, "<0xAC>")]
    assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True) == "\u20ac"


def test_control_tokens_print_nothing_locations_do(tokenizer: PromptTokenizer) -> None:
    ids = [
        tokenizer.bos_id,
        *map(tokenizer.token_id, ("<loc0001>", "<seg002>", PAD, IMAGE, "a")),
        tokenizer.eos_id,
    ]
    assert stream(tokenizer, ids) == ["", "<loc0001>", "<seg002>", "", "", "a", "", ""]
    assert tokenizer.decode([tokenizer.size, tokenizer.size + 63]) == ""


def _write(folder: Path, document: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path

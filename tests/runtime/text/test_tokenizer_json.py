"""Hostile and damaged tokenizer.json files are refused in one line, harmless variants are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_tokenizer import build_sample_tokenizer

from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

PROMPTS = ["", "caption en", " two  spaces\n\n", "größer 猫 \U0001f600", "<loc0001><seg002> <b>"]


def write(folder: Path, document: Any) -> Path:
    """Write a tokenizer.json with this content."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def set_to(*keys: str | int, value: Any) -> Callable[[Any], None]:
    """Return an edit that sets one field of the file."""

    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


PANIC = {"type": "Precompiled", "precompiled_charsmap": ""}  # the library's reader panics
ABORT = "x"  # with this continuing_subword_prefix the library's reader aborts the process
HOSTILE = {
    "a normalizer that panics": set_to("normalizer", value=PANIC),
    "a decoder that panics": set_to("decoder", value=PANIC),
    "a prefix that aborts": set_to("model", "continuing_subword_prefix", value=ABORT),
    "another normalizer": set_to("normalizer", value={"type": "NFKC"}),
    "another split": set_to("pre_tokenizer", "invert", value=True),
    "another decoder": set_to("decoder", "decoders", 1, value={"type": "Strip"}),
    "too few decoders": set_to("decoder", "decoders", value=[]),
    "another model": set_to("model", value={"type": "WordLevel", "vocab": {}, "unk_token": "x"}),
    "no byte fallback": set_to("model", "byte_fallback", value=False),
    "dropout": set_to("model", "dropout", value=0.5),
    "an id twice": set_to("model", "vocab", "a", value=5),
    "a negative id": set_to("model", "vocab", "a", value=-1),
    "a huge id": set_to("model", "vocab", "a", value=2**32),
    "a text for an id": set_to("model", "vocab", "a", value="7"),
    "a list for a vocabulary": set_to("model", "vocab", value=[]),
    "an empty vocabulary": set_to("model", "vocab", value={}),
    "a merge of unknown pieces": set_to("model", "merges", 0, value=["x", "none such"]),
    "a merge into no piece": set_to("model", "merges", 0, value=["猫", "犬"]),
    "a merge into a piece longer than any": set_to("model", "merges", 0, value=["▁triangle", "▁triangle"]),
    "a merge of three": set_to("model", "merges", 0, value="a b c"),
    "a merge of numbers": set_to("model", "merges", 0, value=[1, 2]),
    "numbers for merges": set_to("model", "merges", value=7),
    "half a character in a piece": set_to("model", "vocab", "\ud800", value=9999),
    "an added token elsewhere": set_to("added_tokens", 2, "id", value=77),
    "an added token far away": set_to("added_tokens", -1, "id", value=99_999),
    "an added token without text": set_to("added_tokens", -1, "content", value=""),
    "a number for an added token": set_to("added_tokens", 0, value=3),
    "a text for a flag": set_to("added_tokens", 0, "special", value="yes"),
    "nothing for added tokens": set_to("added_tokens", value=None),
    "no image token": set_to("added_tokens", -1, "content", value="<picture>"),
    "a list for a model": set_to("model", value=[]),
    "nothing for a decoder": set_to("decoder", value=None),
}


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file(
    folder: Path, tmp_path: Path, edit: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(document)
    assert_refused(write(tmp_path, document))
    assert capfd.readouterr().err == ""  # a panic prints a trace


def assert_refused(path: Path) -> None:
    """Assert that loading raises a BundleError of one line that names the file."""
    with pytest.raises(BundleError) as caught:
        PromptTokenizer.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "panick" not in message


@pytest.mark.parametrize("document", [None, 1, "text", [], {}, [[]]])
def test_json_of_another_kind(tmp_path: Path, document: Any) -> None:
    assert_refused(write(tmp_path, document))


def test_cut_file(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    for length in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:length])
        assert_refused(path)


@pytest.mark.parametrize(
    "content", [b"<html>", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"{\0}"]
)
def test_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    assert_refused(path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", encoding="utf-8")
    with pytest.raises(BundleError, match="git lfs pull"):
        PromptTokenizer.load(path)


def test_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, tmp_path / "absent", fifo, Path("/dev/zero")):
        assert_refused(path)


def test_harmless_variants_of_the_file(folder: Path, tmp_path: Path, tokenizer: PromptTokenizer) -> None:
    """Merges as text, a tab token, padding, truncation and no pre-tokenizer, as in older files."""
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    vocabulary = document["model"]["vocab"]
    vocabulary["\t"] = vocabulary.pop("<0x09>")
    document["pre_tokenizer"] = None
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"]]}
    document["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    variant = PromptTokenizer.load(write(tmp_path, document))
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt, 64)
        assert variant.encode(prompt, 64) == ids
        assert variant.decode(ids) == tokenizer.decode(ids)


def test_sample_tokenizer_is_deterministic_and_sized() -> None:
    assert build_sample_tokenizer().to_str() == build_sample_tokenizer().to_str()
    assert build_sample_tokenizer(400, 16, 8).get_vocab_size() == 400 + 16 + 8 + 1
    for pieces in (100, 100_000):
        with pytest.raises(ValueError, match="pieces must be from"):
            build_sample_tokenizer(pieces)

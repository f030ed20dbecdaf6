"""Tokens that a fine-tune added: a tokenizer.json that lacks them is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_tokenizer import build_sample_tokenizer
from transformers import AutoTokenizer

from paligemma_onnx.export.sources.tokenizer_file import find_missing_tokens
from training.published_layout import write_processor_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_processor_files(tmp_path, build_sample_tokenizer(), image_size=28)
    return tmp_path


def test_a_whole_tokenizer(folder: Path) -> None:
    assert find_missing_tokens(folder / "tokenizer.json") is None
    library = AutoTokenizer.from_pretrained(folder)
    library.add_special_tokens({"extra_special_tokens": ["<s_menu>"]})
    library.add_tokens(["<row>"])
    library.save_pretrained(folder)
    assert find_missing_tokens(folder / "tokenizer.json") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<s_menu>": 1753}),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"1753": {"content": "<s_menu>", "special": True}}},
        ),
        ("tokenizer_config.json", {"extra_special_tokens": ["<image>", "<s_menu>"]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"menu_token": "<s_menu>"}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<s_menu>"]}),
    ],
)
def test_a_stale_tokenizer(folder: Path, name: str, content: dict[str, object]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    note = find_missing_tokens(folder / "tokenizer.json")
    assert note is not None
    assert "tokenizer.json: lacks tokens" in note
    assert "adds: <s_menu>;" in note
    if name == "tokenizer_config.json":  # transformers knows the token
        assert "<s_menu>" in AutoTokenizer.from_pretrained(folder).get_vocab()

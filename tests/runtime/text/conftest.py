"""Fixtures of the tokenizer tests: the files that transformers reads, and the runtime's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_tokenizer import build_sample_tokenizer

from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer
from training.published_layout import write_processor_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tokenizer and processor files; read only."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_processor_files(path, build_sample_tokenizer(), image_size=28)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PromptTokenizer:
    """The runtime's tokenizer of the folder."""
    return PromptTokenizer.load(folder / "tokenizer.json")

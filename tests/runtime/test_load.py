"""Loading a bundle: what happens at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime import paligemma as loading
from paligemma_onnx.runtime.graphs.open_runner import open_runner
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer


def test_the_tokenizer_is_read_while_sessions_open(
    shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, read = threading.Event(), PromptTokenizer.load

    def read_after_opening_began(path: Path) -> PromptTokenizer:
        assert opening.wait(HANG)
        return read(path)

    def open_and_tell(*arguments: object) -> object:
        opening.set()
        return open_runner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptTokenizer, "load", read_after_opening_began)
    monkeypatch.setattr(loading, "open_runner", open_and_tell)
    model = PaliGemma.load(shipped_bundle, device="cpu")
    assert model.tokenizer.encode("caption en", 10) == read(shipped_bundle / "tokenizer.json").encode(
        "caption en", 10
    )

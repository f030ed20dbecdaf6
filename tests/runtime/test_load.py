"""Loading a bundle: what happens at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.engine import bundle_sessions
from paligemma_onnx.runtime.engine.ort import InferenceSession
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer


def test_the_tokenizer_is_read_while_sessions_open(
    shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, opened = threading.Event(), bundle_sessions.open_session

    def read_and_tell(_: Path) -> PromptTokenizer:
        read.set()
        return tokenizer

    def open_after_reading(*arguments: Any, **options: Any) -> InferenceSession:
        assert read.wait(HANG)
        return opened(*arguments, **options)

    tokenizer = PromptTokenizer.load(shipped_bundle / "tokenizer.json")
    monkeypatch.setattr(PromptTokenizer, "load", read_and_tell)
    monkeypatch.setattr(bundle_sessions, "open_session", open_after_reading)
    assert PaliGemma.load(shipped_bundle, device="cpu").tokenizer is tokenizer

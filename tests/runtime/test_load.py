"""Loading a bundle: what happens at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma, load
from paligemma_onnx.runtime.engine import bundle_sessions
from paligemma_onnx.runtime.engine.ort import InferenceSession
from paligemma_onnx.runtime.engine.session import MAX_SESSIONS
from paligemma_onnx.runtime.graphs import open_runner
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


def test_the_tokenizer_waits_for_the_sessions(shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it keeps Python's lock, which the steps before the sessions need."""
    order, read, look = list[str](), PromptTokenizer.load, open_runner.find_prepared

    def read_and_record(path: Path) -> PromptTokenizer:
        order.append("tokenizer")
        return read(path)

    def find_and_record(*arguments: Any) -> Path | None:
        time.sleep(0.05)  # if the tokenizer did not wait, it would be read now
        order.append("prepared graphs")
        return look(*arguments)

    monkeypatch.setattr(PromptTokenizer, "load", read_and_record)
    monkeypatch.setattr(open_runner, "find_prepared", find_and_record)
    PaliGemma.load(shipped_bundle, device="cpu")
    assert order == ["prepared graphs", "tokenizer"]


def test_loading_ends_if_it_is_interrupted(shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits to read the tokenizer does not keep the process."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    monkeypatch.setattr(load, "open_runner", interrupt)
    with pytest.raises(KeyboardInterrupt):
        PaliGemma.load(shipped_bundle, device="cpu")
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG)
        assert not thread.is_alive()


@pytest.mark.slow
def test_weights_that_several_threads_pack_give_the_same_answer(
    rounded: Callable[[str, str], Path],
) -> None:
    """`low_memory` lets one thread pack them."""
    bundle, threads = rounded("gemma_one_kv_head", "int4"), MAX_SESSIONS + 1
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    parallel, sequential = (
        PaliGemma.load(bundle, device="cpu", threads=threads, low_memory=low_memory).generate(
            image, "caption en", max_new_tokens=12, logprobs=True
        )
        for low_memory in (False, True)
    )
    assert parallel.token_ids == sequential.token_ids
    assert parallel.logprobs == sequential.logprobs

"""Loading a bundle: what happens at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime import paligemma as loading
from paligemma_onnx.runtime.engine.session import MAX_SESSIONS
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

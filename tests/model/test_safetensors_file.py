"""Damaged safetensors files, values that are not numbers, and the memory that a mapped file takes."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from process_memory import STATUS, anonymous_bytes
from safetensors.torch import load_file, save_file

from paligemma_onnx.model.checkpoint.checkpoint import CHUNK, Checkpoint, find_non_finite
from paligemma_onnx.model.checkpoint.errors import CheckpointError


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file made of its parts; `length` replaces the true length of the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[object], dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = "broken safetensors file"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", BROKEN),
        (b"\x01\0\0", BROKEN),
        (b"\xff" * 100, BROKEN),
        (file_of({}, length=1 << 40), BROKEN),
        (file_of(b"{]"), BROKEN),
        (file_of(b"[]"), BROKEN),
        (file_of(b'{"\xff": 1}'), BROKEN),
        (file_of(b"[" * 50_000), BROKEN),
        (file_of(b'{"a": 1, "a": 2}'), BROKEN),
        (file_of({"a": 1}), BROKEN),
        (file_of({"a": {"dtype": "F32", "shape": [1]}}), BROKEN),
        (file_of({"a": entry(0, 4, [1], dtype="F31")}, bytes(4)), "F31"),
        (file_of({"a": entry(0, 4, [1], dtype=7)}, bytes(4)), BROKEN),
        (
            file_of({"language_model.a": entry(0, 1, [1], dtype="F8_E4M3")}, bytes(1)),
            "not F8_E4M3: language_",
        ),
        (file_of({"a": entry(0, 4, [-1])}, bytes(4)), BROKEN),
        (file_of({"a": entry(0, 4, [True])}, bytes(4)), BROKEN),
        (file_of({"a": entry(0, 4, [1.0])}, bytes(4)), BROKEN),
        (file_of({"a": entry(-4, 0, [1])}, bytes(4)), BROKEN),
        (file_of({"a": entry(0, 4, [2])}, bytes(4)), BROKEN),
        (file_of({"a": entry(4, 0, [1])}, bytes(4)), BROKEN),
        (file_of({"a": entry(0, 4, [2**62, 2**62, 2**62])}, bytes(4)), BROKEN),
        (file_of({"a": entry(4, 8, [1])}, bytes(8)), BROKEN),
        (file_of({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), BROKEN),
        (file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), BROKEN),
        (file_of({"a": entry(0, 8, [2])}, bytes(7)), "fetch the file again"),
        (file_of({"a": entry(0, 8, [2])}, bytes(9)), "fetch the file again"),
        (file_of({"\x1b\n": entry(4, 8, [1])}, bytes(8)), BROKEN),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path, {"a": (1,)})
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"{tmp_path}/model.safetensors: ")
    assert message.isprintable()  # so it is one line


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (file_of(b" " * (1 << 24) + b"{}"), "missing (1): a"),
        (file_of({"a": entry(0, 4, [1] * 9)}, bytes(4)), "misshapen (1): a"),
    ],
)
def test_valid_files_that_do_not_fit_the_model(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        Checkpoint.open(tmp_path, {"a": (1,)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: torch.zeros(3, 5, dtype=dtype) for name in ("nan", "plus", "minus", "fine")}
    tensors["nan"][1, 2] = torch.nan
    tensors["plus"][2, 4] = torch.inf
    tensors["minus"][0, 0] = -torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path, dict.fromkeys(tensors, (3, 5)))
    assert find_non_finite(checkpoint) == ["minus", "nan", "plus"]


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_tensors_are_mapped_and_not_copied(tmp_path: Path) -> None:
    size = 32 * CHUNK  # bytes of each of two tensors: 128 MiB
    tables = {name: torch.zeros(size // 2, dtype=torch.bfloat16) for name in ("a", "b")}
    tables["b"][-1] = torch.nan
    save_file(tables, tmp_path / "model.safetensors")
    del tables
    before = anonymous_bytes()
    checkpoint = Checkpoint.open(tmp_path, {"a": (size // 2,), "b": (size // 2,)})
    tensors = [checkpoint.tensor(name) for name in ("a", "b")]
    assert find_non_finite(checkpoint) == ["b"]
    # 256 MiB were read. The difference is a few pages of Python objects and the allocator's slack.
    assert anonymous_bytes() - before < size // 8
    tensors[0][0] = 1.0  # a private mapping: the file keeps its value
    assert load_file(tmp_path / "model.safetensors")["a"][0] == 0

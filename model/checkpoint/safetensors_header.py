"""Opens .safetensors files: the header is checked before a byte of the tensors is trusted.

The format (github.com/huggingface/safetensors, README): eight bytes of little-endian length, a JSON object of
that length, then the tensors' bytes with neither hole nor overlap.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, quote_names, quote_value
from .json_file import open_file, parse_json, refuse_lfs_pointer

LENGTH_BYTES = 8
MAX_HEADER_BYTES = (
    1 << 24
)  # about 130 bytes a tensor; the largest PaliGemma has 1,100 tensors in all its shards
MAX_RANK = 8  # axes of a tensor; PaliGemma's largest has 4

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes, from the end of the header
    end: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one file by their stored names.

    Raises:
        CheckpointError: the file cannot be read, is cut short, is a Git LFS pointer, has a broken header, or
            holds a tensor that is not float32, bfloat16 or float16.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            start = file.read(64)
            refuse_lfs_pointer(start, path)
            length = int.from_bytes(start[:LENGTH_BYTES], "little")
            if size < LENGTH_BYTES or LENGTH_BYTES + length > size:
                raise _broken(path, f"a header of {length} bytes does not fit into the {size} there are")
            if length > MAX_HEADER_BYTES:
                raise _broken(path, f"a header of {length} bytes is over the limit of {MAX_HEADER_BYTES}")
            file.seek(LENGTH_BYTES)
            text = file.read(length)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    header = parse_json(text, f"{path}: safetensors header")
    header.pop("__metadata__", None)
    _refuse_dtypes(path, header)
    tensors = {name: _entry(path, name, entry) for name, entry in header.items()}
    _check_layout(path, tensors, size - LENGTH_BYTES - length)
    return tensors


def map_file(path: Path) -> Any:
    """A handle whose `get_tensor(name)` gives private mappings of a file that read_header has accepted.

    Raises:
        CheckpointError: the file went away or changed since.
    """
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be opened as a safetensors file") from error


def _refuse_dtypes(path: Path, header: dict[str, object]) -> None:
    """Name every tensor of a type we do not read, which is what a quantised checkpoint looks like."""
    found = {
        name: entry["dtype"]
        for name, entry in header.items()
        if isinstance(entry, dict) and isinstance(entry.get("dtype"), str) and entry["dtype"] not in DTYPES
    }
    if found:
        types, names = quote_names(set(found.values())), quote_names(found)
        raise CheckpointError(f"{path}: only F32, BF16 and F16 are read, not {types}: {names}")


def _entry(path: Path, name: str, entry: object) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"{quote_value(name)} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise _broken(path, f"{quote_value(name)} has the type {quote_value(dtype)}")
    if not _whole_numbers(shape) or len(shape) > MAX_RANK:
        raise _broken(path, f"{quote_value(name)} has the shape {quote_value(shape)}")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise _broken(path, f"{quote_value(name)} has the data_offsets {quote_value(offsets)}")
    tensor = StoredTensor(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])
    if tensor.end - tensor.begin != math.prod(tensor.shape) * tensor.dtype.itemsize:
        raise _broken(
            path, f"{quote_value(name)} of shape {quote_value(shape)} does not fill its data_offsets"
        )
    return tensor


def _check_layout(path: Path, tensors: dict[str, StoredTensor], data_bytes: int) -> None:
    """Every byte behind the header belongs to exactly one tensor."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            kind = "leaves a hole" if tensor.begin > position else "overlaps another tensor"
            raise _broken(path, f"{quote_value(name)} {kind} at byte {min(position, tensor.begin)}")
        position = tensor.end
    if position != data_bytes:
        raise _broken(
            path, f"the tensors need {position} bytes and {data_bytes} are there; fetch the file again"
        )


def _whole_numbers(value: object) -> bool:
    """A list of integers from zero up."""
    if not isinstance(value, list):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: broken safetensors file: {problem}")

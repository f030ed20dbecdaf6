"""An open .safetensors file, whose tensors are memory-mapped (format: github.com/huggingface/safetensors).

The safetensors library validates the header when it opens a file: JSON, dtypes, shapes, and byte ranges that
cover the file without gaps or overlaps. This module also checks the dtypes and writes the error messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .json_file import LFS_POINTER, read_start

WEIGHT_DTYPES = {torch.float32, torch.bfloat16, torch.float16}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file, with the dtype and shape that the header of the file states."""

    path: Path
    name: str  # name in the file
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]  # returns the tensor in its stored dtype
    is_mapped: bool = True  # `load` returns a private mapping of the file, not a copy


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by stored name. Only the header is read.

    Raises:
        CheckpointError: the file cannot be read, is cut short, is a Git LFS pointer or has a broken header.
    """
    read_start(path, len(LFS_POINTER))  # raises an error for LFS pointers, folders, pipes and devices
    try:
        handle: Any = safe_open(path, framework="pt")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  not a mapping
        entries = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        problem = f"broken safetensors file ({quote_value(str(error))})"
        raise CheckpointError(f"{path}: {problem}; fetch the file again") from error
    if unknown := {dtype for dtype, _ in entries.values()} - DTYPES.keys():
        raise CheckpointError(f"{path}: the dtypes {quote_names(unknown)} are not known")
    return {
        name: StoredTensor(path, name, DTYPES[dtype], shape, partial(handle.get_tensor, name))
        for name, (dtype, shape) in entries.items()
    }


def refuse_other_dtypes(tensors: Iterable[StoredTensor]) -> None:
    """Raise CheckpointError if a tensor is not float32, bfloat16 or float16."""
    refused = [tensor for tensor in tensors if tensor.dtype not in WEIGHT_DTYPES]
    if refused:
        found = {name for name, dtype in DTYPES.items() if any(tensor.dtype == dtype for tensor in refused)}
        # A quantised checkpoint has many tensors of other dtypes. The message lists these tensors.
        names = quote_names(tensor.name for tensor in refused)
        remedy = (
            "load a quantised model in transformers, call dequantize() and save_pretrained, and export that"
        )
        if found == {"F64"}:
            remedy = "save the model as float32: model.float().save_pretrained"
        raise CheckpointError(
            f"{refused[0].path}: only F32, BF16 and F16 are read, not {quote_names(found)}: {names}; {remedy}"
        )

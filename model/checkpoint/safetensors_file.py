"""An open .safetensors file, whose tensors are memory-mapped (format: github.com/huggingface/safetensors).

The safetensors library validates the header when it opens a file: JSON, dtypes, shapes, and byte ranges that
cover the file without gaps or overlaps. This module also checks the dtypes and writes the error messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .json_file import LFS_POINTER, read_start

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file, with the dtype and shape that the header of the file states."""

    path: Path
    name: str  # in the file
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]  # returns the tensor in its stored dtype
    is_mapped: bool = True  # `load` returns a private mapping of the file, not a copy


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by stored name. Only the header is read.

    Raises:
        CheckpointError: the file cannot be read, is cut short, is a Git LFS pointer, has a broken header,
            or holds a tensor that is not float32, bfloat16 or float16.
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
    # A quantised checkpoint has many tensors of other dtypes. The message lists these tensors.
    if refused := {name: dtype for name, (dtype, _) in entries.items() if dtype not in DTYPES}:
        dtypes, names = quote_names(set(refused.values())), quote_names(refused)
        raise CheckpointError(f"{path}: only F32, BF16 and F16 are read, not {dtypes}: {names}")
    return {
        name: StoredTensor(path, name, DTYPES[dtype], shape, partial(handle.get_tensor, name))
        for name, (dtype, shape) in entries.items()
    }

"""Messages between the command and a JavaScript worker; javascript/messages.mjs describes them."""

from __future__ import annotations

import json
import struct
from math import prod
from typing import IO, Any

import numpy as np

from .interface import Arrays

_START = struct.Struct("<Id")  # bytes of the header, bytes of the tensors


def write_message(stream: IO[bytes], header: dict[str, object], tensors: Arrays) -> None:
    """Write a message.

    Raises:
        OSError: the reader has ended.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    listed = [
        {"name": name, "dtype": array.dtype.name, "shape": array.shape} for name, array in arrays.items()
    ]
    text = json.dumps({**header, "tensors": listed}).encode()
    stream.write(_START.pack(len(text), sum(array.nbytes for array in arrays.values())) + text)
    for array in arrays.values():
        stream.write(array.tobytes())
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    """Return header and tensors of the next message.

    Raises:
        EOFError: the stream ends before the message does.
    """
    length, _ = _START.unpack(_read(stream, _START.size))
    header = json.loads(_read(stream, length))
    tensors = {}
    for tensor in header["tensors"]:
        dtype = np.dtype(tensor["dtype"])
        content = _read(stream, prod(tensor["shape"]) * dtype.itemsize)
        tensors[tensor["name"]] = np.frombuffer(content, dtype).reshape(tensor["shape"])
    return header, tensors


def _read(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content

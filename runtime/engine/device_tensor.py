"""Memory that graphs read and write where it is: on the CPU or on a GPU, by its address."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..bundle.dtypes import DTYPES, DTypeName
from .cuda_provider import device_lock, to_public_error
from .devices import Placement
from .memory import INT64_BYTES, allocate
from .ort import import_onnxruntime


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor in memory of its own, or in a part of it; whoever has one keeps the memory."""

    memory: Any  # OrtValue: on a CPU of the type that NumPy holds, on a GPU of int64, whole words
    dtype: DTypeName
    shape: tuple[int, ...]
    placement: Placement
    offset: int = 0  # bytes from the start of the memory

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: DTypeName, placement: Placement, what: str) -> DeviceTensor:
        """New memory that holds anything.

        Raises:
            ResourceError: there is not so much; `what` says for what.
        """
        with _asked(what, placement.device):
            if placement.device == "cpu":
                return cls.holding(np.empty(shape, DTYPES[dtype].storage), dtype, placement, what)
            size = math.prod(shape) * DTYPES[dtype].bytes
            return cls(allocate(size, placement), dtype, tuple(shape), placement)

    @classmethod
    def zeros(cls, shape: Sequence[int], dtype: DTypeName, placement: Placement, what: str) -> DeviceTensor:
        """New memory with zeros in it, the CPU's not touched until it is written; raises ResourceError."""
        if placement.device != "cpu":
            return cls.empty(shape, dtype, placement, what)  # it is of zeros
        with _asked(what, placement.device):
            return cls.holding(np.zeros(shape, DTYPES[dtype].storage), dtype, placement, what)

    @classmethod
    def holding(
        cls, content: NDArray[Any], dtype: DTypeName, placement: Placement, what: str
    ) -> DeviceTensor:
        """What NumPy holds: on a CPU its own memory, on a GPU a copy; raises ResourceError."""
        if placement.device != "cpu":
            tensor = cls.empty(content.shape, dtype, placement, what)
            tensor.put(content)
            return tensor
        memory = import_onnxruntime().OrtValue.ortvalue_from_numpy(content)
        return cls(memory, dtype, content.shape, placement)

    @property
    def address(self) -> int:
        """Where it is in its device's memory."""
        start: int = self.memory.data_ptr()
        return start + self.offset

    def put(self, content: NDArray[Any]) -> None:
        """Overwrite all of the memory, which is of the content's size."""
        whole = np.ascontiguousarray(content)
        with device_lock(self.placement.device):
            self.memory.update_inplace(whole if self.placement.device == "cpu" else _as_words(whole))

    def held(self) -> NDArray[Any]:
        """The numbers as NumPy holds them: on a CPU the memory itself, and only as long as it is there."""
        with device_lock(self.placement.device):
            held = _as_bytes(self.memory.numpy())
        size = DTYPES[self.dtype].bytes
        numbers = held[: len(held) // size * size].view(DTYPES[self.dtype].storage)
        start = self.offset // numbers.itemsize
        return numbers[start : start + math.prod(self.shape)].reshape(self.shape)

    def numpy(self) -> NDArray[Any]:
        """The numbers; float32 in place of half precision."""
        numbers = self.held()
        match self.dtype:
            case "bfloat16":  # the upper half of a float32
                return (numbers.astype(np.uint32) << 16).view(np.float32)
            case "float16":
                return numbers.astype(np.float32)
        return numbers.copy() if self.placement.device == "cpu" else numbers

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """For NumPy."""
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def part(self, start: int, shape: Sequence[int]) -> DeviceTensor:
        """The numbers from `start` on in another shape, in the same memory."""
        size = DTYPES[self.dtype].bytes
        return replace(self, shape=tuple(shape), offset=self.offset + start * size)

    def bind_input(self, binding: Any, name: str) -> None:
        """Have a graph read it."""
        binding.bind_input(name, *self._where())

    def bind_output(self, binding: Any, name: str) -> None:
        """Have a graph write it."""
        binding.bind_output(name, *self._where())

    def _where(self) -> tuple[str, int, int, list[int], int]:
        place = self.placement
        return place.device, place.index, DTYPES[self.dtype].onnx_type, list(self.shape), self.address


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _as_words(array: NDArray[Any]) -> NDArray[np.int64]:
    """Of a length that is none of whole words, a copy."""
    held = _as_bytes(array)
    missing = -len(held) % INT64_BYTES
    return (np.pad(held, (0, missing)) if missing else held).view(np.int64)


@contextmanager
def _asked(what: str, device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the engine has no common base for what it raises
        if told := to_public_error(error, what, device):
            raise told from error
        raise

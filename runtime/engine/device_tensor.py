"""Tensors in memory that graphs read and write by address, on the CPU or on a GPU."""

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
from .ort import IoBinding, OrtValue, import_onnxruntime


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor in device memory. Several tensors may share the memory; it is freed with the last of them."""

    # The OrtValue has the NumPy storage of `dtype` on a CPU, and int64 on a GPU, because `allocate` works in
    # words of 8 bytes. If onnxruntime allocated it for an output, it has the dtype of the output.
    memory: OrtValue
    dtype: DTypeName
    shape: tuple[int, ...]
    placement: Placement
    offset: int = 0  # bytes from the start of the memory

    @classmethod
    def empty(
        cls, shape: Sequence[int], dtype: DTypeName, placement: Placement, subject: str
    ) -> DeviceTensor:
        """Allocate a tensor with arbitrary content.

        Raises:
            ResourceError: out of memory; the message begins with `subject`.
        """
        with _translated_errors(subject, placement.device):
            if placement.device == "cpu":
                return cls.from_numpy(np.empty(shape, DTYPES[dtype].storage), dtype, placement, subject)
            size = math.prod(shape) * DTYPES[dtype].bytes
            return cls(allocate(size, placement), dtype, tuple(shape), placement)

    @classmethod
    def zeros(
        cls, shape: Sequence[int], dtype: DTypeName, placement: Placement, subject: str
    ) -> DeviceTensor:
        """Allocate a tensor of zeros. On a CPU a page of it takes no memory until the page is written.

        Raises:
            ResourceError: out of memory; the message begins with `subject`.
        """
        if placement.device != "cpu":
            return cls.empty(shape, dtype, placement, subject)  # `allocate` returns zeros
        with _translated_errors(subject, placement.device):
            return cls.from_numpy(np.zeros(shape, DTYPES[dtype].storage), dtype, placement, subject)

    @classmethod
    def from_numpy(
        cls, content: NDArray[Any], dtype: DTypeName, placement: Placement, subject: str
    ) -> DeviceTensor:
        """Return a tensor with the content of an array. It is a view on a CPU and a copy on a GPU.

        Args:
            content: array with the NumPy storage of `dtype`, which is uint16 for bfloat16.
            dtype: dtype of the tensor.
            placement: device of the tensor.
            subject: the beginning of error messages.

        Raises:
            ResourceError: out of memory.
        """
        if placement.device != "cpu":
            tensor = cls.empty(content.shape, dtype, placement, subject)
            tensor.copy_from(content)
            return tensor
        memory = import_onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(content))
        return cls(memory, dtype, content.shape, placement)

    @property
    def address(self) -> int:
        """Address of the tensor's first number in device memory."""
        return self.memory.data_ptr() + self.offset

    def copy_from(self, content: NDArray[Any]) -> None:
        """Overwrite the whole memory with an array of the same size and with the NumPy storage of `dtype`."""
        content = np.ascontiguousarray(content)
        with device_lock(self.placement.device):
            self.memory.update_inplace(
                content if self.placement.device == "cpu" else _as_int64_words(content)
            )

    def to_numpy_view(self) -> NDArray[Any]:
        """Return the numbers as an array with the NumPy storage of `dtype`, which is uint16 for bfloat16.

        On a CPU the array is a view, which is valid as long as this tensor exists. On a GPU it is a copy.
        """
        with device_lock(self.placement.device):
            content = _as_bytes(self.memory.numpy())
        start, size = self.offset, math.prod(self.shape) * DTYPES[self.dtype].bytes
        return content[start : start + size].view(DTYPES[self.dtype].storage).reshape(self.shape)

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the numbers as an array. float16 and bfloat16 are converted to float32."""
        numbers = self.to_numpy_view()
        match self.dtype:
            case "bfloat16":  # bfloat16 is the upper half of a float32
                return (numbers.astype(np.uint32) << 16).view(np.float32)
            case "float16":
                return numbers.astype(np.float32)
        return numbers.copy() if self.placement.device == "cpu" else numbers

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Convert to an array for `np.asarray`."""
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def view(self, start: int, shape: Sequence[int]) -> DeviceTensor:
        """Return a tensor of the given shape in the same memory, from the number at index `start` onwards."""
        return replace(self, shape=tuple(shape), offset=self.offset + start * DTYPES[self.dtype].bytes)

    def bind_input(self, binding: IoBinding, name: str) -> None:
        """Make a run read an input from this tensor."""
        binding.bind_input(name, *self._binding_arguments())

    def bind_output(self, binding: IoBinding, name: str) -> None:
        """Make a run write an output into this tensor."""
        binding.bind_output(name, *self._binding_arguments())

    def _binding_arguments(self) -> tuple[str, int, int, list[int], int]:
        placement = self.placement
        onnx_type = DTYPES[self.dtype].onnx_type
        return placement.device, placement.index, onnx_type, list(self.shape), self.address


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _as_int64_words(array: NDArray[Any]) -> NDArray[np.int64]:
    """Return an int64 view of an array, or a padded copy if its size is not a multiple of 8 bytes."""
    content = _as_bytes(array)
    missing = -len(content) % INT64_BYTES
    return (np.pad(content, (0, missing)) if missing else content).view(np.int64)


@contextmanager
def _translated_errors(subject: str, device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if public := to_public_error(error, subject, device):
            raise public from error
        raise

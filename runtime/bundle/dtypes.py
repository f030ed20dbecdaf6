"""Dtypes of the tensors in a bundle: their names, ONNX numbers and NumPy storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DTypeName = Literal["float32", "bfloat16", "float16", "int64", "int8", "uint8"]


@dataclass(frozen=True)
class DType:
    """A dtype with its representations in ONNX, onnxruntime and NumPy."""

    onnx_type: int  # TensorProto.DataType (onnx.proto)
    ort_type: str  # onnxruntime's name (NodeArg.type)
    storage: np.dtype[Any]  # NumPy has no bfloat16: its bits are stored as uint16

    @property
    def bytes(self) -> int:
        """Size of one number in bytes."""
        return self.storage.itemsize


DTYPES: dict[DTypeName, DType] = {
    "float32": DType(1, "tensor(float)", np.dtype(np.float32)),
    "uint8": DType(2, "tensor(uint8)", np.dtype(np.uint8)),
    "int8": DType(3, "tensor(int8)", np.dtype(np.int8)),
    "int64": DType(7, "tensor(int64)", np.dtype(np.int64)),
    "float16": DType(10, "tensor(float16)", np.dtype(np.float16)),
    "bfloat16": DType(16, "tensor(bfloat16)", np.dtype(np.uint16)),
}

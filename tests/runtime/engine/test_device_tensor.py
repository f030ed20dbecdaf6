"""Tensors in memory of a device, compared with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.memory import INT64_BYTES, MAX_ALLOCATION_BYTES, allocate

CPU = choose_placement("cpu", 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
def test_a_tensor_is_what_was_put_in(dtype: Any) -> None:
    numbers = np.array([[1.5, -2, 0], [3, 65504, -0.25]])
    content = {
        "float32": numbers.astype(np.float32),
        "bfloat16": (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
        "float16": numbers.astype(np.float16),
        "int64": numbers.astype(np.int64),
    }[dtype]
    tensor = DeviceTensor.zeros((2, 3), dtype, CPU, "numbers")
    assert (tensor.numpy() == 0).all()
    tensor.copy_from(content)
    expected = numbers.astype(np.int64) if dtype == "int64" else numbers
    assert np.isclose(tensor.numpy(), expected, rtol=2**-7 if dtype == "bfloat16" else 0).all()
    view = tensor.view(2, (2, 2))
    assert np.array_equal(view.numpy(), tensor.numpy().reshape(-1)[2:].reshape(2, 2))
    assert view.address == tensor.address + 2 * content.itemsize
    assert np.array_equal(np.asarray(tensor), tensor.numpy())
    assert np.array_equal(tensor.to_numpy_view(), content)


def test_arrays_are_not_copied_on_a_cpu() -> None:
    content = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = DeviceTensor.from_numpy(content, "float32", CPU, "numbers")
    content[0, 0] = 7
    assert tensor.numpy()[0, 0] == 7
    assert np.shares_memory(tensor.to_numpy_view(), content)
    assert not np.shares_memory(tensor.numpy(), content)


def test_too_large_allocations_are_refused() -> None:
    """The kernel that allocates counts in 32 bits."""
    assert MAX_ALLOCATION_BYTES // INT64_BYTES < 2**31
    with pytest.raises(ValueError, match="more than"):
        allocate(MAX_ALLOCATION_BYTES + 1, CPU)

"""Weight files on a GPU are split into pieces of limited size."""

from __future__ import annotations

from paligemma_onnx.runtime.bundle.tensor_table import StoredTensor
from paligemma_onnx.runtime.engine.memory import MAX_ALLOCATION_BYTES
from paligemma_onnx.runtime.engine.shared_weights import split_into_pieces


def test_large_files_come_in_pieces() -> None:
    size = MAX_ALLOCATION_BYTES // 4
    tensors = [
        StoredTensor(str(at), "bfloat16", (size // 2,), "decoder.data", at * size, None) for at in range(10)
    ]
    groups = [[tensor.name for tensor in group] for group in split_into_pieces(tensors)]
    assert groups == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]

"""How a matrix becomes fewer bits, and back: arrays and their layout, written piece by piece.

Legend: N outputs (rows of a checkpoint's matrix), K inputs (its columns), S inputs a block, J blocks a row
(K / S, rounded up).

Both forms are symmetric: a weight is its code times its scale, zero is code zero. What a code rounds away
is then an error around zero for every input, whatever its mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma_onnx.model.checkpoint.errors import CheckpointError

from ..precisions import BlockQuantized, Float32, HalfPrecision, HalfType, Int8PerChannel, WeightFormat

PIECE = 64 << 20  # bytes of float32 weights in memory at once
FLOAT32 = 4  # bytes
LARGEST_INT8 = 127  # -128 is left out, so that codes are symmetric
HALVES: dict[HalfType, ir.DataType] = {"bfloat16": ir.DataType.BFLOAT16, "float16": ir.DataType.FLOAT16}
MARKS: dict[HalfType, str] = {
    "bfloat16": "bf16",
    "float16": "fp16",
}  # behind a block's size, in names of tensors


@dataclass(frozen=True)
class Layout:
    """One array as it is stored."""

    suffix: str  # behind the tensor's name
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def layouts(shape: tuple[int, ...], form: WeightFormat, *, transposed: bool) -> tuple[Layout, ...]:
    """The arrays that a tensor becomes, in the order in which `encode` gives them.

    Args:
        shape: the checkpoint's; [N, K] for a matrix.
        form: how it is stored.
        transposed: float32 only: stored [K, N], the order MatMul reads.
    """
    if isinstance(form, Float32 | HalfPrecision):
        dtype = ir.DataType.FLOAT if isinstance(form, Float32) else HALVES[form.dtype]
        return (Layout("", dtype, tuple(reversed(shape)) if transposed else shape),)
    outputs, inputs = shape
    if isinstance(form, Int8PerChannel):
        return (
            Layout(".int8.scales", ir.DataType.FLOAT, (outputs,)),
            Layout(".int8", ir.DataType.INT8, (inputs, outputs)),
        )
    blocks = -(-inputs // form.size)
    name = f".int{form.bits}x{form.size}" + (MARKS[form.dtype] if form.dtype != "float32" else "")
    scales = ir.DataType.FLOAT if form.dtype == "float32" else HALVES[form.dtype]
    return (
        Layout(name, ir.DataType.UINT8, (outputs, blocks, form.size * form.bits // 8)),
        Layout(f"{name}.scales", scales, (outputs, blocks)),
    )


def encode(tensor: Tensor, form: WeightFormat, *, transposed: bool) -> Iterator[tuple[int, memoryview]]:
    """The bytes of a tensor's arrays: which array of `layouts`, and its next piece."""
    match form:
        case Float32():
            for block in _pieces(tensor.t() if transposed else tensor):
                yield 0, _bytes(block.to(torch.float32))
        case HalfPrecision(dtype):
            for block in _pieces(tensor.t() if transposed else tensor):
                yield 0, _bytes(narrowed(block, dtype).view(torch.int16))
        case Int8PerChannel():
            scales = torch.cat([_output_scales(rows.to(torch.float32)) for rows in _pieces(tensor)])
            yield 0, _bytes(scales)
            for columns in _pieces(tensor.t()):
                codes = (columns.to(torch.float32) / scales).round_().nan_to_num_(0.0)
                yield 1, _bytes(codes.clamp_(-LARGEST_INT8, LARGEST_INT8).to(torch.int8))
        case BlockQuantized():
            kept = []
            for rows in _pieces(tensor):
                codes, scales = block_codes(rows.to(torch.float32), form)
                kept.append(scales)
                yield 0, _bytes(_packed(codes, form))
            scales = torch.cat(kept)
            yield (
                1,
                _bytes(scales if form.dtype == "float32" else narrowed(scales, form.dtype).view(torch.int16)),
            )


def narrowed(tensor: Tensor, dtype: HalfType) -> Tensor:
    """Rounded to half precision, to the nearest number.

    Raises:
        CheckpointError: a number is too large for it.
    """
    half = tensor.to(getattr(torch, dtype))
    if dtype == "float16" and half.isinf().sum() > tensor.isinf().sum():
        raise CheckpointError(
            f"a weight of {tensor.abs().max().item():.3g} is over float16's largest number, 65504, which the "
            "table has in bf16, too; export as bf16 or, where it is of the table, as fp32"
        )
    return half


def block_codes(rows: Tensor, form: BlockQuantized) -> tuple[Tensor, Tensor]:
    """Codes and scales of whole rows: float32[N, K] -> float32[N, J, S] whole numbers, float32[N, J].

    The weight of largest magnitude gets the code of largest magnitude, -2^(bits-1), of which there is no
    positive counterpart: the scale takes its sign. Then, codes fixed, the scale becomes the one of least
    squared error, sum(w q) / sum(q q), and codes are rounded once more for it.
    """
    missing = -rows.shape[1] % form.size
    blocks = F.pad(rows, (0, missing)).unflatten(1, (-1, form.size))
    lowest = -(2 ** (form.bits - 1))
    extreme = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scales = _usable(extreme / lowest)
    codes = _rounded(blocks, scales, lowest)
    squares = codes.square().sum(dim=2, keepdim=True)
    fitted = (blocks * codes).sum(dim=2, keepdim=True) / squares
    scales = torch.where(squares > 0, fitted, scales)
    if form.dtype != "float32":
        scales = _usable(narrowed(scales, form.dtype).to(torch.float32))
    return _rounded(blocks, scales, lowest), scales.squeeze(2)


def decoded(tensor: Tensor, form: WeightFormat) -> Tensor:
    """What a matrix's arrays stand for: float[N, K] -> float32[N, K]."""
    wide = tensor.to(torch.float32)
    match form:
        case Float32():
            return wide
        case HalfPrecision(dtype):
            return narrowed(tensor, dtype).to(torch.float32)
        case Int8PerChannel():
            scales = _output_scales(wide)[:, None]
            return (wide / scales).round().clamp(-LARGEST_INT8, LARGEST_INT8) * scales
        case BlockQuantized():
            codes, scales = block_codes(wide, form)
            return (codes * scales[:, :, None]).flatten(1)[:, : wide.shape[1]]


def _output_scales(rows: Tensor) -> Tensor:
    """float32[N, K] -> float32[N]: the largest weight of an output becomes the largest code."""
    return _usable(rows.abs().amax(dim=1) / LARGEST_INT8)


def _usable(scales: Tensor) -> Tensor:
    """A row of zeros may have any scale but zero; a scale that is not finite stays, and shows at once."""
    return torch.where(scales == 0, 1.0, scales)


def _rounded(blocks: Tensor, scales: Tensor, lowest: int) -> Tensor:
    codes: Tensor = (blocks / scales).round_().nan_to_num_(0.0)
    return codes.clamp_(lowest, -lowest - 1)


def _packed(codes: Tensor, form: BlockQuantized) -> Tensor:
    """Whole numbers [N, J, S] -> uint8[N, J, S * bits / 8], shifted above zero, the first in the low bits."""
    shifted: Tensor = (codes + 2 ** (form.bits - 1)).to(torch.uint8)
    if form.bits == 8:
        return shifted
    low, high = shifted[..., ::2], shifted[..., 1::2]
    return torch.bitwise_or(low, high << 4)


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Blocks of whole rows of at most PIECE bytes in float32."""
    row = max(1, math.prod(tensor.shape[1:])) * FLOAT32
    pieces: tuple[Tensor, ...] = tensor.split(max(1, PIECE // row))
    return pieces


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().numpy().data.cast("B")

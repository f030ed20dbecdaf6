"""Encode tensors in the storage formats of weights, and define the layouts and names of the stored arrays.

Both integer formats are symmetric: a weight is its code times its scale, and code zero is weight zero. The
rounding error is then distributed around zero for every input, even if the mean of the input is not zero.

A matrix is [out, in], as checkpoints store it. Block-wise quantisation splits each row into
blocks = ceil(in / block_size) blocks of block_size inputs, and pads the last block with zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.dtypes import DTYPES, DTypeName

from ..precisions import (
    BlockQuantized,
    Float32,
    FloatType,
    HalfPrecision,
    HalfType,
    Int8PerChannel,
    WeightFormat,
)

MAX_PIECE_BYTES = 64 << 20  # maximum size of the float32 weights that are in memory at once
FLOAT32_BYTES = 4
SCALES = ".scales"  # suffix of the name of an array of scales
MAX_INT8 = 127  # -128 is not used, so that codes are symmetric
# Marks that follow the block size in the name of an array if scales and activations are in half precision.
DTYPE_MARKS: dict[FloatType, str] = {"float32": "", "bfloat16": "bf16", "float16": "fp16"}
ARRAY_NAME = re.compile(
    r"(?P<tensor>.+)\.int(?P<bits>[48])(x(?P<block_size>\d+)(?P<mark>bf16|fp16|))?(?P<kind>\.scales|\.rows|)"
)

PIECE_NAME = re.compile(r"(?P<tensor>.+)\.rows(?P<first>\d+)-(?P<end>\d+)")


@dataclass(frozen=True)
class Layout:
    """An array in which a tensor, or a part of a tensor, is stored."""

    suffix: str  # appended to the name of the tensor
    dtype: DTypeName
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].bytes

    @property
    def ir_dtype(self) -> ir.DataType:
        """The dtype of the array as a member of onnx_ir's DataType."""
        return ir.DataType(DTYPES[self.dtype].onnx_type)

    @property
    def is_scales(self) -> bool:
        """True if the array contains the scales of another array of the tensor."""
        return self.suffix.endswith(SCALES)


def float_format(dtype: ir.DataType | None) -> Float32 | HalfPrecision:
    """Return the format of a tensor that is not quantised, given the dtype of the tensor in the graph."""
    match dtype:
        case ir.DataType.BFLOAT16:
            return HalfPrecision("bfloat16")
        case ir.DataType.FLOAT16:
            return HalfPrecision("float16")
    return Float32()


def piece_name(tensor: str, first: int, end: int) -> str:
    """Return the name of the rows of a tensor from `first` to before `end`."""
    return f"{tensor}.rows{first}-{end}"


def parse_piece_name(name: str) -> tuple[str, slice]:
    """Return the name of a tensor, and its rows that `name` stands for: those of a piece, or all rows."""
    match = PIECE_NAME.fullmatch(name)
    if match is None:
        return name, slice(None)
    return match["tensor"], slice(int(match["first"]), int(match["end"]))


def array_layouts(shape: tuple[int, ...], format: WeightFormat, *, transposed: bool) -> tuple[Layout, ...]:
    """Return the layouts of the arrays that store a tensor, in the order in which `encode` yields them.

    Args:
        shape: shape of the tensor in the checkpoint; [out, in] for a matrix.
        format: how the tensor is stored.
        transposed: True to store a float32 matrix as [in, out], the order that MatMul reads.
    """
    if isinstance(format, Float32 | HalfPrecision):
        dtype: FloatType = "float32" if isinstance(format, Float32) else format.dtype
        return (Layout("", dtype, tuple(reversed(shape)) if transposed else shape),)
    outputs, inputs = shape
    if isinstance(format, Int8PerChannel):
        return (
            Layout(f".int8{SCALES}", "float32", (outputs,)),
            Layout(".int8", "int8", (inputs, outputs)),
        )
    blocks = -(-inputs // format.block_size)
    suffix = f".int{format.bits}x{format.block_size}{DTYPE_MARKS[format.dtype]}"
    return (
        Layout(suffix, "uint8", (outputs, blocks, format.block_size * format.bits // 8)),
        Layout(f"{suffix}{SCALES}", format.dtype, (outputs, blocks)),
    )


def parse_array_name(name: str, dtype: ir.DataType) -> tuple[str, WeightFormat, int]:
    """Return the tensor name, the format, and the index in `array_layouts` of the array of an initializer.

    Args:
        name: name of the initializer: the name of the tensor, followed by a suffix of `array_layouts`. The
            suffix of the codes of an embedding may be followed by `.rows`, for the shape that lookups read.
        dtype: dtype of the initializer, which distinguishes float32 from half precision.
    """
    match = ARRAY_NAME.fullmatch(name)
    if match is None:
        return name, float_format(dtype), 0
    is_scales = match["kind"] == ".scales"
    if match["block_size"] is None:
        return match["tensor"], Int8PerChannel(), 0 if is_scales else 1
    (scale_dtype,) = (each for each, mark in DTYPE_MARKS.items() if mark == match["mark"])
    format = BlockQuantized(4 if match["bits"] == "4" else 8, int(match["block_size"]), scale_dtype)
    return match["tensor"], format, int(is_scales)


def encode(tensor: Tensor, format: WeightFormat, *, transposed: bool) -> Iterator[tuple[int, memoryview]]:
    """Yield the stored bytes of a tensor as pairs: index of an array in `array_layouts`, piece of the array.

    Raises:
        CheckpointError: a weight exceeds the range of float16.
    """
    match format:
        case Float32():
            for rows in _split_rows(tensor.t() if transposed else tensor):
                yield 0, _to_bytes(rows.to(torch.float32))
        case HalfPrecision(dtype):
            for rows in _split_rows(tensor.t() if transposed else tensor):
                yield 0, _to_bytes(to_half(rows, dtype).view(torch.int16))
        case Int8PerChannel():
            scales = torch.cat([_channel_scales(rows.to(torch.float32)) for rows in _split_rows(tensor)])
            yield 0, _to_bytes(scales)
            for columns in _split_rows(tensor.t()):
                codes = (columns.to(torch.float32) / scales).round_().nan_to_num_(0.0)
                yield 1, _to_bytes(codes.clamp_(-MAX_INT8, MAX_INT8).to(torch.int8))
        case BlockQuantized():
            scales_of_pieces = []
            for rows in _split_rows(tensor):
                codes, scales = quantize_blocks(rows.to(torch.float32), format)
                scales_of_pieces.append(scales)
                yield 0, _to_bytes(_pack_codes(codes, format))
            scales = torch.cat(scales_of_pieces)
            if format.dtype != "float32":
                scales = to_half(scales, format.dtype).view(torch.int16)
            yield 1, _to_bytes(scales)


def to_half(tensor: Tensor, dtype: HalfType) -> Tensor:
    """Return the tensor, rounded to the nearest numbers of a half-precision dtype.

    Raises:
        CheckpointError: a finite number exceeds the range of float16.
    """
    half = tensor.to(getattr(torch, dtype))
    if dtype == "float16" and half.isinf().sum() > tensor.isinf().sum():
        raise CheckpointError(
            f"a weight of {tensor.abs().max().item():.3g} exceeds float16's largest number, 65504; export as "
            "fp32, or a bundle as bf16 (unless the weight belongs to the embedding, which bf16 stores in "
            "float16, too)"
        )
    return half


def quantize_blocks(rows: Tensor, format: BlockQuantized) -> tuple[Tensor, Tensor]:
    """Return whole rows of a matrix, quantised block by block.

    The code of largest magnitude, -2^(bits-1), has no positive counterpart. The weight w of largest magnitude
    in a block gets this code, and the sign of the scale follows from the sign of the weight. The codes q of
    the other weights are computed with this scale. Then the scale is replaced by the scale of least squared
    error for these codes, sum(w q) / sum(q q), and all codes are computed again with the new scale.

    Args:
        rows: float32[out, in].
        format: bits, block size, and dtype that scales are rounded to.

    Returns:
        The codes, float32[out, blocks, block_size] with integer values, and the scales, float32[out, blocks].
    """
    padding = -rows.shape[1] % format.block_size
    blocks = F.pad(rows, (0, padding)).unflatten(1, (-1, format.block_size))
    min_code = -(2 ** (format.bits - 1))
    extreme = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scales = _replace_zeros(extreme / min_code)
    codes = _round_to_codes(blocks, scales, min_code)
    squares = codes.square().sum(dim=2, keepdim=True)
    least_squares = (blocks * codes).sum(dim=2, keepdim=True) / squares
    scales = torch.where(squares > 0, least_squares, scales)
    if format.dtype != "float32":
        scales = _replace_zeros(to_half(scales, format.dtype).to(torch.float32))
    return _round_to_codes(blocks, scales, min_code), scales.squeeze(2)


def _channel_scales(rows: Tensor) -> Tensor:
    """Return scales that map the largest weight of a row to MAX_INT8: float32[out, in] -> float32[out]."""
    return _replace_zeros(rows.abs().amax(dim=1) / MAX_INT8)


def _replace_zeros(scales: Tensor) -> Tensor:
    """Return the scales with zeros replaced by 1; scales that are not finite stay and propagate.

    A scale is zero if all its weights are zero.
    """
    return torch.where(scales == 0, 1.0, scales)


def _round_to_codes(blocks: Tensor, scales: Tensor, min_code: int) -> Tensor:
    codes: Tensor = (blocks / scales).round_().nan_to_num_(0.0)
    return codes.clamp_(min_code, -min_code - 1)


def _pack_codes(codes: Tensor, format: BlockQuantized) -> Tensor:
    """Return codes [out, blocks, block_size] packed into uint8[out, blocks, block_size * bits / 8].

    Adding 2^(bits-1) makes the codes unsigned. If a byte holds two 4-bit codes, the first code is in the low
    bits.
    """
    unsigned: Tensor = (codes + 2 ** (format.bits - 1)).to(torch.uint8)
    if format.bits == 8:
        return unsigned
    low, high = unsigned[..., ::2], unsigned[..., 1::2]
    return torch.bitwise_or(low, high << 4)


def _split_rows(tensor: Tensor) -> tuple[Tensor, ...]:
    """Split a tensor into groups of rows. In float32, a group of several rows has at most MAX_PIECE_BYTES."""
    row_bytes = max(1, math.prod(tensor.shape[1:])) * FLOAT32_BYTES
    pieces: tuple[Tensor, ...] = tensor.split(max(1, MAX_PIECE_BYTES // row_bytes))
    return pieces


def _to_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().numpy().data.cast("B")

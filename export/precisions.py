"""The precisions: which arithmetic each graph's matrices get. Data only; quantize.py carries it out.

What limits the graphs differs. Vision and prefill multiply hundreds of rows at once and are limited by
arithmetic: 8-bit integers multiply fastest. A decode step multiplies one row and is limited by reading the
weights: the fewer bits the better. So the default of the small precisions, `int4`, holds the decoder's
matrices twice, in 8 bits for prefill and in 4 bits for decode, and `int4-compact` once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paligemma_onnx.runtime.bundle.schema import CacheUpdate, Device
from paligemma_onnx.runtime.errors import OptionError


@dataclass(frozen=True)
class Float32:
    """As the checkpoint computes, standard operators only."""

    def __str__(self) -> str:
        """As the manifest says it."""
        return "float32"


HalfType = Literal["bfloat16", "float16"]
HEAD_DTYPE: HalfType = "float16"  # of a table in half precision; on_device.py says why


@dataclass(frozen=True)
class HalfPrecision:
    """Half precision, weights and activations."""

    dtype: HalfType

    def __str__(self) -> str:
        """As the manifest says it."""
        return self.dtype


@dataclass(frozen=True)
class Int8PerChannel:
    """Signed 8-bit weights with one scale an output; activations become 8-bit when they are used."""

    def __str__(self) -> str:
        """As the manifest says it."""
        return "int8, a scale an output"


@dataclass(frozen=True)
class BlockQuantized:
    """Signed weights of a few bits with one scale for a block of consecutive inputs of an output."""

    bits: Literal[4, 8]
    size: int  # weights a block; a power of two, 16 at least
    # Of scales and activations. In float32 activations become 8-bit when they are used, in half precision
    # weights become so.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __str__(self) -> str:
        """As the manifest says it."""
        used = "" if self.dtype == "float32" else f", {self.dtype} when used"
        return f"int{self.bits}, a scale per {self.size} inputs{used}"


WeightFormat = Float32 | HalfPrecision | Int8PerChannel | BlockQuantized


@dataclass(frozen=True)
class Precision:
    """How the matrices of each graph are stored and multiplied; norms and the stream are float32."""

    vision_encoder: WeightFormat
    prefill: WeightFormat
    decode: WeightFormat
    table: (
        Float32 | HalfPrecision | BlockQuantized
    )  # embedding and head, the same numbers, shared by prefill and decode
    cache: CacheUpdate
    wide_batch: int | None = None  # rows from which decode is limited by arithmetic and takes prefill's
    devices: tuple[Device, ...] = ("cpu",)  # whose operators it asks for
    activations: Literal["float32", "bfloat16", "float16"] = "float32"  # of products, and the cache

    @property
    def rounds(self) -> bool:
        """Whether activations are rounded to a few bits, so that channels want a common range."""
        forms = (self.vision_encoder, self.prefill, self.decode, self.table)
        return self.half is None and any(not isinstance(form, Float32) for form in forms)

    @property
    def half(self) -> HalfType | None:
        """What its graphs for a GPU compute in; None where they are for a CPU, too."""
        return None if self.activations == "float32" else self.activations


def _half(dtype: HalfType) -> Precision:
    form = HalfPrecision(dtype)
    return Precision(
        form, form, form, HalfPrecision(HEAD_DTYPE), "in_place", devices=("cuda",), activations=dtype
    )


# Weights of 4 bits beside activations in bfloat16: prefill and decode read the same codes.
_FOUR_BITS = BlockQuantized(4, 128, "bfloat16")

PRECISIONS = {
    "fp32": Precision(Float32(), Float32(), Float32(), Float32(), "grow", devices=("cpu", "cuda")),
    "int8": Precision(
        Int8PerChannel(), Int8PerChannel(), Int8PerChannel(), BlockQuantized(8, 128), "in_place"
    ),
    "int4": Precision(
        Int8PerChannel(),
        Int8PerChannel(),
        BlockQuantized(4, 128),
        BlockQuantized(4, 128),
        "in_place",
        wide_batch=4,
    ),
    "int4-compact": Precision(
        Int8PerChannel(), BlockQuantized(4, 128), BlockQuantized(4, 128), BlockQuantized(4, 128), "in_place"
    ),
    "bf16": _half("bfloat16"),
    "fp16": _half("float16"),
    "int4-bf16": replace(
        _half("bfloat16"), prefill=_FOUR_BITS, decode=_FOUR_BITS, table=BlockQuantized(4, 128, HEAD_DTYPE)
    ),
}
DEFAULTS: dict[Device, str] = {"cpu": "fp32", "cuda": "bf16"}  # precision of a bundle, by what it is for


def choose_precision(precision: str | None, device: Device | None) -> str:
    """The precision of a bundle.

    Args:
        precision: the one asked for; None takes the device's default.
        device: what the bundle is for; None: whatever its precision runs on.

    Raises:
        OptionError: the precision does not run there.
    """
    if precision is None:
        return DEFAULTS[device or "cpu"]
    if device is not None and device not in PRECISIONS[precision].devices:
        there = ", ".join(name for name, recipe in PRECISIONS.items() if device in recipe.devices)
        raise OptionError(f"precision {precision} does not run on {device}; choose from {there}")
    return precision

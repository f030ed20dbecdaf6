"""The precisions: which arithmetic each graph's matrices get. Data only; quantize.py carries it out.

What limits the graphs differs. Vision and prefill multiply hundreds of rows at once and are limited by
arithmetic: 8-bit integers multiply fastest. A decode step multiplies one row and is limited by reading the
weights: the fewer bits the better. So the default of the small precisions, `int4`, holds the decoder's
matrices twice, in 8 bits for prefill and in 4 bits for decode, and `int4-compact` once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paligemma_onnx.runtime.manifest import CacheUpdate


@dataclass(frozen=True)
class Float32:
    """As the checkpoint computes, standard operators only."""

    def __str__(self) -> str:
        """As the manifest says it."""
        return "float32"


@dataclass(frozen=True)
class Outputs:
    """Signed 8-bit weights with one scale an output; activations become 8-bit when they are used."""

    def __str__(self) -> str:
        """As the manifest says it."""
        return "int8, a scale an output"


@dataclass(frozen=True)
class Blocks:
    """Signed weights of a few bits with one scale for a block of consecutive inputs of an output."""

    bits: Literal[4, 8]
    size: int  # weights a block; a power of two, 16 at least

    def __str__(self) -> str:
        """As the manifest says it."""
        return f"int{self.bits}, a scale per {self.size} inputs"


Form = Float32 | Outputs | Blocks


@dataclass(frozen=True)
class Precision:
    """How the matrices of each graph are stored and multiplied; everything else is float32."""

    vision_encoder: Form
    prefill: Form
    decode: Form
    table: Float32 | Blocks  # embedding and head, the same numbers, shared by prefill and decode
    cache: CacheUpdate
    wide_batch: int | None = None  # rows from which decode is limited by arithmetic and takes prefill's

    @property
    def rounds(self) -> bool:
        """Whether any matrix has fewer bits than the checkpoint computes with."""
        forms = (self.vision_encoder, self.prefill, self.decode, self.table)
        return any(not isinstance(form, Float32) for form in forms)


PRECISIONS = {
    "fp32": Precision(Float32(), Float32(), Float32(), Float32(), "grow"),
    "int8": Precision(Outputs(), Outputs(), Outputs(), Blocks(8, 128), "in_place"),
    "int4": Precision(Outputs(), Outputs(), Blocks(4, 128), Blocks(4, 128), "in_place", wide_batch=4),
    "int4-compact": Precision(Outputs(), Blocks(4, 128), Blocks(4, 128), Blocks(4, 128), "in_place"),
}

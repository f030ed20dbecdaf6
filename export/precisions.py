"""Precisions: how the matrices of each graph are stored and multiplied; `quantization` applies them.

Different resources limit the graphs. Vision and prefill multiply hundreds of rows at once. Their speed is
limited by arithmetic, and arithmetic is fastest with 8-bit integers. A decode step multiplies one row per
sequence. Its speed is limited by reading the weights, and weights of fewer bits are read faster. `int4`
therefore stores the matrices of the decoder twice, in 8 bits for prefill and in 4 bits for decode.
`int4-compact` stores these matrices once, in 4 bits.

`int4-portable` is for other runtimes. Its matrices are multiplied by an operator that several runtimes
implement (MatMulNBits); everything else is computed by operators of the ONNX standard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paligemma_onnx.runtime.bundle.schema import CacheUpdate, Device
from paligemma_onnx.runtime.errors import OptionError

HalfType = Literal["bfloat16", "float16"]
FloatType = Literal["float32", "bfloat16", "float16"]
# dtype of the embedding if activations are in half precision; graphs/cuda_graphs.py states the reason.
EMBEDDING_DTYPE: HalfType = "float16"


@dataclass(frozen=True)
class Float32:
    """Weights and activations in float32; the graphs have only standard ONNX operators."""

    def __str__(self) -> str:
        """Return the description of the format in the manifest."""
        return "float32"


@dataclass(frozen=True)
class HalfPrecision:
    """Weights and activations in half precision."""

    dtype: HalfType

    def __str__(self) -> str:
        """Return the description of the format in the manifest."""
        return self.dtype


@dataclass(frozen=True)
class Int8PerChannel:
    """Signed 8-bit weights with one scale per output channel.

    Activations are quantised to 8 bits at run time.
    """

    def __str__(self) -> str:
        """Return the description of the format in the manifest."""
        return "int8, one scale per output"


@dataclass(frozen=True)
class BlockQuantized:
    """Signed 4-bit or 8-bit weights. Each block of consecutive inputs of an output channel has one scale."""

    bits: Literal[4, 8]
    block_size: int  # weights per block; a power of two, at least 16
    # dtype of scales and activations. If the dtype is float32, activations are quantised to 8 bits at
    # run time. If it is half precision, weights are dequantised, and activations are not quantised.
    dtype: FloatType = "float32"

    def __str__(self) -> str:
        """Return the description of the format in the manifest."""
        dequantized = "" if self.dtype == "float32" else f", dequantized to {self.dtype}"
        return f"int{self.bits}, one scale per {self.block_size} inputs{dequantized}"


WeightFormat = Float32 | HalfPrecision | Int8PerChannel | BlockQuantized
EmbeddingFormat = Float32 | HalfPrecision | BlockQuantized


@dataclass(frozen=True)
class Precision:
    """Storage and arithmetic of the matrices of each graph. Norms and the residual stream are float32."""

    vision_encoder: WeightFormat
    prefill: WeightFormat
    decode: WeightFormat
    embedding: EmbeddingFormat  # also the output head; stored once, for prefill and decode
    cache: CacheUpdate
    # A decode step of at least this number of sequences runs through the prefill graph, because arithmetic
    # then limits the speed. None: no decode step runs through the prefill graph.
    wide_batch: int | None = None
    devices: tuple[Device, ...] = ("cpu",)  # devices that implement the graphs' operators
    activations: FloatType = "float32"  # dtype of matrix products and of the KV cache
    # If true, the graphs avoid what other runtimes lack or compute less exactly. They look up rotary angles
    # in tables (graphs/rotary_tables.py), and dequantise rows of the embedding by standard operators
    # (quantization/standard_lookup.py). Only for a cache that grows.
    portable: bool = False

    @property
    def max_file_bytes(self) -> int | None:
        """Size in bytes above which a weight file is split, for browsers; None: no file is split.

        A GPU receives the weights that two graphs share from one file (runtime/engine/shared_weights.py).
        """
        return None if "cuda" in self.devices else MAX_BUFFER_BYTES

    @property
    def quantizes_activations(self) -> bool:
        """True if activations are quantised at run time, which needs scaled channels (channel_scaling.py)."""
        formats = (self.vision_encoder, self.prefill, self.decode, self.embedding)
        return self.half_dtype is None and any(not isinstance(each, Float32) for each in formats)

    @property
    def is_in_place_float32(self) -> bool:
        """True if the decoder is that of graphs/in_place_decoder.py."""
        return self.cache == "in_place" and self.activations == "float32"

    @property
    def half_dtype(self) -> HalfType | None:
        """Half-precision dtype of activations, only used on CUDA; None if the graphs also run on a CPU."""
        return None if self.activations == "float32" else self.activations


def _half_precision(dtype: HalfType) -> Precision:
    weights = HalfPrecision(dtype)
    embedding = HalfPrecision(EMBEDDING_DTYPE)
    return Precision(weights, weights, weights, embedding, "in_place", devices=("cuda",), activations=dtype)


# Largest buffer that browsers allocate, in bytes (Chromium). A weight file becomes one buffer.
MAX_BUFFER_BYTES = 2**31 - 1
_INT4 = BlockQuantized(4, 128)
_INT4_VISION = BlockQuantized(4, 32)
# 4-bit weights with bfloat16 activations: prefill and decode read the same codes.
_INT4_BF16 = BlockQuantized(4, 128, "bfloat16")

PRECISIONS = {
    "fp32": Precision(
        Float32(), Float32(), Float32(), Float32(), "grow", devices=("cpu", "cuda"), portable=True
    ),
    "int8": Precision(
        Int8PerChannel(), Int8PerChannel(), Int8PerChannel(), BlockQuantized(8, 128), "in_place"
    ),
    "int4": Precision(
        Int8PerChannel(),
        Int8PerChannel(),
        _INT4,
        _INT4,
        "in_place",
        wide_batch=4,
    ),
    "int4-compact": Precision(Int8PerChannel(), _INT4, _INT4, _INT4, "in_place"),
    "int4-portable": Precision(_INT4_VISION, _INT4, _INT4, _INT4, "grow", portable=True),
    "bf16": _half_precision("bfloat16"),
    "fp16": _half_precision("float16"),
    "int4-bf16": replace(
        _half_precision("bfloat16"),
        prefill=_INT4_BF16,
        decode=_INT4_BF16,
        embedding=BlockQuantized(4, 128, EMBEDDING_DTYPE),
    ),
}
DEFAULT_PRECISIONS: dict[Device, str] = {"cpu": "fp32", "cuda": "bf16"}  # key: device that runs the bundle


def choose_precision(precision: str | None, device: Device | None) -> str:
    """Return the name of the precision of a bundle.

    Args:
        precision: name of the requested precision; None: the default of the device.
        device: the device on which the bundle must run; None: any device that the precision supports.

    Raises:
        OptionError: the precision does not run on the device.
    """
    if precision is None:
        return DEFAULT_PRECISIONS[device or "cpu"]
    if device is not None and device not in PRECISIONS[precision].devices:
        suitable = ", ".join(name for name, each in PRECISIONS.items() if device in each.devices)
        raise OptionError(f"precision {precision} does not run on {device}; choose from {suitable}")
    return precision

"""Schema of manifest.json. The exporter builds these dataclasses and the runtime reads them back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

SCHEMA_VERSION = 2
MIN_SCHEMA_VERSION = 2  # the oldest that can be read
TENSOR_TABLE = "tensors.json"  # file next to the manifest, see tensor_table.py
BUNDLE_ID_KEY = "paligemma_onnx.bundle_id"  # in the metadata of every graph
SEG_TOKENS_PER_MASK = 16  # <seg> tokens of a mask: a grid of 4 x 4, row by row


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a string in the shape names a dimension that varies."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph, its inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int] = field(default_factory=dict)  # number of nodes by operator, descending
    digest: str = ""  # SHA-256 of the graph before the bundle's id was written into it


@dataclass(frozen=True)
class Graphs:
    """The graphs of a bundle: three, and a fourth where a mask decoder was exported with them."""

    vision_encoder: GraphSpec
    prefill: GraphSpec
    decode: GraphSpec
    mask_decoder: GraphSpec | None = None

    @property
    def by_name(self) -> dict[str, GraphSpec]:
        """The graphs of this bundle by field name."""
        graphs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: graph for name, graph in graphs.items() if graph is not None}

    @property
    def every(self) -> tuple[GraphSpec, ...]:
        """The graphs of this bundle."""
        return tuple(self.by_name.values())

    @property
    def different(self) -> tuple[GraphSpec, ...]:
        """Each once: prefill and decode may be the same."""
        return tuple({graph.digest: graph for graph in reversed(self.every)}.values())[::-1]


@dataclass(frozen=True)
class FileSpec:
    """One file beside the manifest."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFacts:
    """What kind of PaliGemma this is."""

    family: Literal["paligemma", "paligemma2"]
    parameters: int
    hidden_size: int
    vocab_size: int  # rows of the embedding table, and of the logits
    context_length: int  # tokens, image tokens included
    final_logit_softcapping: float | None  # applied inside the graphs
    sliding_window: int | None  # tokens, on every second layer
    vision_heads: int  # attention heads of the vision tower


@dataclass(frozen=True)
class ImageFacts:
    """How a picture becomes pixel values: resized to a square, then (pixel * rescale_factor - mean) / std."""

    size: int  # pixels, both ways
    tokens: int  # image tokens a picture becomes
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB"] = "RGB"
    resample: Literal["bicubic"] = "bicubic"  # Pillow's, on 8-bit pixels, without keeping the aspect


@dataclass(frozen=True)
class TokenFacts:
    """Ids the driver must know, read from the checkpoint's own tokenizer."""

    file: str
    bos: int
    pad: int
    image: int
    stop: tuple[int, ...]
    suppressed: tuple[int, ...]  # rows of the table that are never a text: `<image>` and untrained ones
    template: Literal["<bos>{prompt}\n"] = "<bos>{prompt}\n"  # prompt and newline are tokenised together


# How a step of decode adds its token: it gives a cache that is a slot longer, or it writes into the one it
# is given, whose slots were all there from the start.
CacheUpdate = Literal["grow", "in_place"]


@dataclass(frozen=True)
class CacheFacts:
    """The key-value cache: layers times key and value of [B, heads, slots, head_dim]."""

    layers: int
    heads: int
    head_dim: int
    dtype: Literal["float32", "bfloat16", "float16"]
    update: CacheUpdate


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Matrices:
    """How the matrices of each graph are stored, in words; "float32" is as the checkpoint computes."""

    vision_encoder: str
    prefill: str
    decode: str
    embedding: str  # also the head


@dataclass(frozen=True)
class PrecisionFacts:
    """How the numbers are stored."""

    name: str
    opset: int
    matrices: Matrices
    # From so many rows on a decode step runs through the prefill graph, whose arithmetic suits many rows;
    # None: never. Both graphs have the same inputs and outputs where the cache is updated in place.
    wide_batch: int | None
    devices: tuple[Device, ...]  # that have its operators

    @property
    def is_float32(self) -> bool:
        """Whether every matrix is as the checkpoint computes."""
        return set(vars(self.matrices).values()) == {"float32"}


@dataclass(frozen=True)
class GenerationDefaults:
    """What `generate` does when it is not told."""

    max_new_tokens: int


@dataclass(frozen=True)
class Producer:
    """Which software wrote the bundle."""

    paligemma_onnx: str
    torch: str
    onnx: str


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about a bundle."""

    schema_version: int
    bundle_id: str
    model: ModelFacts
    image: ImageFacts
    tokens: TokenFacts
    cache: CacheFacts
    graphs: Graphs
    precision: PrecisionFacts
    generation: GenerationDefaults
    producer: Producer
    files: dict[str, FileSpec]

    def to_json(self) -> str:
        """Serialise; the same manifest always gives the same text."""
        content = asdict(self)
        if self.graphs.mask_decoder is None:
            del content["graphs"]["mask_decoder"]
        return json.dumps(content, indent=2) + "\n"

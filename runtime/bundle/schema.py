"""Schema of `manifest.json`. The exporter builds these dataclasses and the runtime reads them.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, TypeVar

SCHEMA_VERSION = 3
MIN_SCHEMA_VERSION = 2  # the oldest version that can be read
TENSOR_TABLE = "tensors.json"  # file next to the manifest, see tensor_table.py
BUNDLE_ID_KEY = "paligemma_onnx.bundle_id"  # key in the metadata of every graph
SEG_TOKENS_PER_MASK = 16  # <seg> tokens of a mask form a grid of 4 x 4, row by row

CacheUpdate = Literal["grow", "in_place"]
CacheLayout = Literal["heads_slots", "slots_heads"]
Size = TypeVar("Size")
Device = Literal["cpu", "cuda"]


BaseWeights = Literal["stored", "nf4", "nf4-double"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "int64"]
    shape: tuple[int | str, ...]  # a string names a dimension that varies


@dataclass(frozen=True)
class GraphSpec:
    """A graph with its inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int] = field(default_factory=dict)  # number of nodes by operator, descending
    digest: str = ""  # SHA-256 of the graph before the bundle's id was written into it


@dataclass(frozen=True)
class Graphs:
    """The graphs of a bundle. There are three, or four if a mask decoder was exported."""

    vision_encoder: GraphSpec
    prefill: GraphSpec
    decode: GraphSpec
    mask_decoder: GraphSpec | None = None

    @property
    def by_name(self) -> dict[str, GraphSpec]:
        """Graphs that this bundle has, by field name."""
        graphs = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: graph for name, graph in graphs.items() if graph is not None}

    @property
    def all(self) -> tuple[GraphSpec, ...]:
        """All graphs that this bundle has."""
        return tuple(self.by_name.values())

    @property
    def distinct(self) -> tuple[GraphSpec, ...]:
        """The graphs with different content; prefill and decode may have the same content and count once."""
        return tuple({graph.digest: graph for graph in reversed(self.all)}.values())[::-1]


@dataclass(frozen=True)
class FileSpec:
    """A file next to the manifest."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFacts:
    """Facts of the network for the runtime and for readers of the manifest."""

    family: Literal["paligemma", "paligemma2"]
    parameters: int
    hidden_size: int  # D
    vocab_size: int  # V: rows of the embedding, and size of the logits
    context_length: int  # X: number of tokens, including image tokens
    final_logit_softcapping: float | None  # applied inside the graphs
    sliding_window: int | None  # tokens; applies to every second layer
    vision_heads: int  # attention heads of the vision tower
    # Format to which the linear layers of the checkpoint were rounded before adapters were merged. The
    # default is left out of `manifest.json`.
    base_weights: BaseWeights = "stored"


@dataclass(frozen=True)
class ImageFacts:
    """Preprocessing of an image: resize to a square, then (pixel * rescale_factor - mean) / std."""

    size: int  # S: pixels per side
    tokens: int  # I: image tokens per image
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB"] = "RGB"
    resample: Literal["bicubic"] = "bicubic"  # Pillow's filter for 8-bit pixels; the aspect ratio is not kept


@dataclass(frozen=True)
class TokenFacts:
    """Token ids that the runtime needs, from the checkpoint's tokenizer."""

    file: str
    bos: int
    pad: int
    image: int
    stop: tuple[int, ...]
    suppressed: tuple[
        int, ...
    ]  # ids that are never generated: `<image>`, and untrained rows of the embedding
    template: Literal["<bos>{prompt}\n"] = "<bos>{prompt}\n"  # prompt and newline are tokenised as one text


@dataclass(frozen=True)
class CacheFacts:
    """Facts of the KV cache, which has a key and a value for each layer."""

    layers: int
    heads: int  # K
    head_dim: int  # H
    dtype: Literal["float32", "bfloat16", "float16"]
    # "grow": a decode step returns a new, longer cache. "in_place": a decode step writes into the cache that
    # it reads; the slots were allocated in advance.
    update: CacheUpdate
    # "heads_slots": keys and values are [B, K, C, H]. "slots_heads": they are [B, C, K * H].
    layout: CacheLayout = "heads_slots"

    def shape(self, rows: Size, slots: Size) -> tuple[Size | int, ...]:
        """Return the shape of a key or value for B = `rows` and C = `slots`."""
        if self.layout == "slots_heads":
            return (rows, slots, self.heads * self.head_dim)
        return (rows, self.heads, slots, self.head_dim)

    @property
    def slot_axis(self) -> int:
        """The axis of the slots."""
        return 1 if self.layout == "slots_heads" else 2


@dataclass(frozen=True)
class Matrices:
    """Text that describes the format in which each graph stores its matrices, such as "float32"."""

    vision_encoder: str
    prefill: str
    decode: str
    embedding: str  # also used as the output head


@dataclass(frozen=True)
class PrecisionFacts:
    """Storage of numbers in the bundle."""

    name: str
    opset: int
    matrices: Matrices
    # If a batch has at least this number of sequences, its decode steps run the prefill graph, whose
    # arithmetic suits many rows. None: decode steps always run the decode graph. A number needs a cache
    # that is updated in place, with which prefill and decode have the same inputs and outputs.
    wide_batch: int | None
    devices: tuple[Device, ...]  # devices that have kernels for the graphs

    @property
    def is_float32(self) -> bool:
        """True if every matrix is float32."""
        return set(vars(self.matrices).values()) == {"float32"}


@dataclass(frozen=True)
class GenerationDefaults:
    """Default values for the options of `generate`. A field has the name and meaning of its option.

    `manifest.json` contains only the fields that differ from the values given here.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    suppress_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Producer:
    """Versions of the software that wrote the bundle."""

    paligemma_onnx: str
    torch: str
    onnx: str


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle for the runtime."""

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

    @property
    def is_float32(self) -> bool:
        """True if every matrix is float32."""
        return self.precision.is_float32

    @property
    def takes_chunks(self) -> bool:
        """True if a decode step may add several tokens to each row, and returns logits after each of them.

        The decode graph then declares a dimension that varies, and sees the tokens of a step causally.
        """
        varies = any(
            spec.name == "input_ids" and isinstance(spec.shape[-1], str) for spec in self.graphs.decode.inputs
        )
        # In-place graphs of schema 2 also declare it, but are not causal; they have no `slots_heads`.
        return varies and (self.cache.update == "grow" or self.cache.layout == "slots_heads")

    def to_json(self) -> str:
        """Return the manifest as JSON text. Equal manifests give equal texts."""
        content = asdict(self)
        if self.graphs.mask_decoder is None:
            del content["graphs"]["mask_decoder"]
        if self.schema_version < 3:
            del content["cache"]["layout"]
        if self.model.base_weights == "stored":
            del content["model"]["base_weights"]
        for default in fields(GenerationDefaults):
            if getattr(self.generation, default.name) == default.default:
                del content["generation"][default.name]
        return json.dumps(content, indent=2) + "\n"

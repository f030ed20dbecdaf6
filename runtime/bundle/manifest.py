"""What a bundle says of itself: the one file the runtime reads to know a model.

The exporter builds these dataclasses and the runtime reads them back, so a fact is written in one place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dacite

from ..errors import BundleError
from .check_manifest import check_manifest

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
BUNDLE_ID_KEY = "paligemma_onnx.bundle_id"  # in the metadata of every graph
ID_LENGTH = 32  # hexadecimal digits of a bundle id: 128 bits
MAX_MANIFEST_BYTES = 4 << 20  # a manifest of a 46-layer model is 60 kB


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
    digest: str = ""  # SHA-256 of the graph before the bundle's id was written into it


@dataclass(frozen=True)
class Graphs:
    """The graphs of a bundle: three, and a fourth where a mask decoder was exported with them."""

    vision_encoder: GraphSpec
    prefill: GraphSpec
    decode: GraphSpec
    mask_decoder: GraphSpec | None = None

    @property
    def every(self) -> tuple[GraphSpec, ...]:
        """All that there are."""
        masks = () if self.mask_decoder is None else (self.mask_decoder,)
        return (self.vision_encoder, self.prefill, self.decode, *masks)

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
    table: str  # embedding and head


@dataclass(frozen=True)
class Recipe:
    """How the numbers are stored."""

    precision: str
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
    recipe: Recipe
    generation: GenerationDefaults
    producer: Producer
    files: dict[str, FileSpec]

    def to_json(self) -> str:
        """Serialise; the same manifest always gives the same text."""
        content = asdict(self)
        if self.graphs.mask_decoder is None:
            del content["graphs"]["mask_decoder"]
        return json.dumps(content, indent=2) + "\n"


def identity(manifest: Manifest) -> str:
    """A bundle's id: a hash of all its manifest says but that id, and the graph files, which carry it.

    The digests of the graphs as they were without the id stand for those files.
    """
    carriers = [graph.file for graph in manifest.graphs.every]
    files = {name: spec for name, spec in sorted(manifest.files.items()) if name not in carriers}
    nameless = replace(manifest, bundle_id="", files=files)
    return hashlib.sha256(nameless.to_json().encode()).hexdigest()[:ID_LENGTH]


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        BundleError: the file is missing, damaged, of a newer schema, names a path outside the folder, or
            contradicts itself.
    """
    path = folder / MANIFEST
    data = _read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{path}: schema_version is not a positive whole number; export the checkpoint again"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is newer than this release reads ({SCHEMA_VERSION}); "
            "update it with `pip install -U paligemma-onnx`"
        )
    try:
        manifest = dacite.from_dict(Manifest, data, dacite.Config(strict=True))
        check_manifest(manifest)
        if identity(manifest) != manifest.bundle_id:
            raise ValueError("is altered: what it says does not give its bundle_id")
    except dacite.UnexpectedDataError as error:
        problem = f"has a field that is not known, {sorted(map(ascii, error.keys))[0]}"
    except dacite.DaciteFieldError as error:
        missing = isinstance(error, dacite.MissingValueError)
        problem = f"{error.field_path} is {'missing' if missing else 'of a wrong type'}"
    except ValueError as error:
        problem = str(error)
    else:
        return manifest
    raise BundleError(f"{path}: {problem}; export the checkpoint again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: not a regular file; export the checkpoint again")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest")
        data = _without_lists(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no such file; `paligemma-onnx export CHECKPOINT --output {path.parent}` makes a bundle"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path}: not valid JSON; export the checkpoint again") from None
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the checkpoint again")
    return data


def _without_lists(value: Any) -> Any:
    """Tuples for lists, as the fields have; and text for true and false, which would pass as 1 and 0."""
    if isinstance(value, dict):
        return {key: _without_lists(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_without_lists(entry) for entry in value)
    return str(value) if isinstance(value, bool) else value

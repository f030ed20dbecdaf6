"""What a bundle says of itself: the one file the runtime reads to know a model.

The exporter builds these dataclasses and the runtime reads them back, so a fact is written in one place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import dacite

from .errors import BundleError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
BUNDLE_ID_KEY = "paligemma_onnx.bundle_id"  # in the metadata of every graph
MAX_MANIFEST_BYTES = 4 << 20  # a manifest of a 46-layer model is 60 kB


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a string in the shape names a dimension that varies."""

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph, its inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Graphs:
    """The three graphs of a bundle."""

    vision_encoder: GraphSpec
    prefill: GraphSpec
    decode: GraphSpec


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
    """How a picture becomes pixel values: (pixel * rescale_factor - mean) / std."""

    size: int  # pixels, both ways
    tokens: int  # image tokens a picture becomes
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TokenFacts:
    """Ids the driver must know, read from the checkpoint's own tokenizer."""

    file: str
    bos: int
    pad: int
    image: int
    stop: tuple[int, ...]
    suppressed: tuple[int, ...]  # rows of the table that are never a text: `<image>` and untrained ones


@dataclass(frozen=True)
class CacheFacts:
    """Shape of the key-value cache: layers times key and value of [B, heads, slots, head_dim]."""

    layers: int
    heads: int
    head_dim: int
    dtype: Literal["float32"]


@dataclass(frozen=True)
class Recipe:
    """How the numbers are stored."""

    precision: str
    opset: int


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
        return json.dumps(asdict(self), indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        BundleError: the file is missing, damaged, of a newer schema, or names a path outside the folder.
    """
    path = folder / MANIFEST
    data = _read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(
            f"{path}: schema_version is not a positive whole number; export the checkpoint again"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is newer than this release reads ({SCHEMA_VERSION}); "
            "update it with `pip install -U paligemma-onnx`"
        )
    try:
        manifest = dacite.from_dict(Manifest, data, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{path}: {reason}; export the checkpoint again") from None
    _check(manifest, path)
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no such file; `paligemma-onnx export CHECKPOINT --output {path.parent}` makes a bundle"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path}: not valid JSON; export the checkpoint again") from None
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the checkpoint again")
    return data


def _check(manifest: Manifest, path: Path) -> None:
    graphs = manifest.graphs
    referred = (graphs.vision_encoder.file, graphs.prefill.file, graphs.decode.file, manifest.tokens.file)
    for name in (*manifest.files, *referred):
        if name in ("", ".", "..") or PurePosixPath(name).name != name or "\\" in name or "\0" in name:
            raise BundleError(
                f"{path}: {name!r} is not a plain file name; files of a bundle lie in its folder"
            )
    for name in referred:
        if name not in manifest.files:
            raise BundleError(f"{path}: {name!r} is used but not listed under files")
    image, cache, model = manifest.image, manifest.cache, manifest.model
    positive = {
        "model.hidden_size": model.hidden_size,
        "model.vocab_size": model.vocab_size,
        "model.context_length": model.context_length,
        "image.size": image.size,
        "image.tokens": image.tokens,
        "cache.layers": cache.layers,
        "cache.heads": cache.heads,
        "cache.head_dim": cache.head_dim,
        "generation.max_new_tokens": manifest.generation.max_new_tokens,
    }
    for field, value in positive.items():
        if value < 1:
            raise BundleError(f"{path}: {field} is {value}, expected at least 1")
    tokens = manifest.tokens
    for token in (tokens.bos, tokens.pad, tokens.image, *tokens.stop, *tokens.suppressed):
        if not 0 <= token < model.vocab_size:
            raise BundleError(f"{path}: token id {token} is outside the vocabulary of {model.vocab_size}")

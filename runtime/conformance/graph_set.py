"""The graphs to compare: those of a bundle, or those of one number format of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..bundle.integrity import check_files
from ..bundle.layout_record import FLOAT32, LayoutName, check_layout_files, is_layout
from ..bundle.manifest import read_manifest
from ..bundle.schema import CacheFacts, GraphSpec, ImageFacts, ModelFacts, TokenFacts
from ..errors import BundleError, OptionError


@dataclass(frozen=True)
class GraphSet:
    """Graphs that answer prompts together, and the facts with which they are driven."""

    folder: Path
    bundle_id: str  # id of the bundle or of the layout; the metadata of every graph contains it
    layout: LayoutName | Literal["bundle"]
    precision: str  # precision of the bundle, or number format of the layout
    is_float32: bool  # whether every matrix is float32
    graphs: dict[str, GraphSpec]
    model: ModelFacts
    image: ImageFacts
    tokens: TokenFacts
    cache: CacheFacts


def read_graph_set(folder: Path, dtype: str | None) -> GraphSet:
    """Read and check the folder of a bundle or of a layout.

    Args:
        folder: the folder.
        dtype: number format of a layout; None: the folder's default.

    Raises:
        BundleError: the folder is damaged, or its graphs run on GPUs only.
        OptionError: the folder has no such number format.
    """
    return _read_layout(folder, dtype) if is_layout(folder) else _read_bundle(folder, dtype)


def _read_bundle(folder: Path, dtype: str | None) -> GraphSet:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if "cpu" not in manifest.precision.devices:
        raise BundleError(
            f"{folder}: its graphs need a GPU, and the reference is onnxruntime on the CPU; "
            "export with --precision fp32, int8 or int4"
        )
    if dtype is not None:
        raise OptionError(f"--dtype is for layouts; {folder} is a bundle with one precision")
    return GraphSet(
        folder,
        manifest.bundle_id,
        "bundle",
        manifest.precision.name,
        manifest.is_float32,
        manifest.graphs.by_name,
        manifest.model,
        manifest.image,
        manifest.tokens,
        manifest.cache,
    )


def _read_layout(folder: Path, dtype: str | None) -> GraphSet:
    record = check_layout_files(folder, lambda _: None)
    name = dtype or record.dtypes[0]
    if name not in record.graphs:
        raise OptionError(f"{folder} has no files of dtype {name!r}; choose from {', '.join(record.dtypes)}")
    return GraphSet(
        folder,
        record.layout_id,
        record.layout,
        name,
        name == FLOAT32,
        record.graphs[name].by_name,
        record.model,
        record.image,
        record.tokens,
        record.cache,
    )

"""Read the record of a layout: a folder in the form that another tool expects, which has no manifest.

The record lets `verify` and `validate` work on such a folder. The other tool ignores the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from ..errors import BundleError
from .integrity import check_listed
from .json_file import build, read_json_object
from .schema import CacheFacts, FileSpec, GraphSpec, ImageFacts, ModelFacts, Producer, TokenFacts

LAYOUT_RECORD = "paligemma_onnx.json"
RECORD_VERSION = 2
MAX_RECORD_BYTES = 1 << 20
ID_LENGTH = 32  # hexadecimal digits of an id: 128 bits

FLOAT32, FLOAT16 = "fp32", "fp16"  # names of number formats

LayoutName = Literal["transformers.js", "genai"]


@dataclass(frozen=True)
class LayoutGraphs:
    """The graphs of one number format. The path of a graph is relative to the folder of the layout."""

    vision_encoder: GraphSpec
    embedding: GraphSpec
    decoder: GraphSpec  # reads embedded tokens, a mask, positions and a growing cache

    @property
    def by_name(self) -> dict[str, GraphSpec]:
        """All graphs, by field name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class LayoutRecord:
    """The content of a folder that an export wrote for another tool."""

    record_version: int
    layout_id: str  # hash of the record; the metadata of every graph contains it
    layout: LayoutName
    graphs: dict[str, LayoutGraphs]  # by number format, with the names of transformers.js; the default first
    model: ModelFacts
    image: ImageFacts
    tokens: TokenFacts
    cache: CacheFacts
    producer: Producer
    files: dict[str, FileSpec]  # by path in the folder, such as onnx/embed_tokens.onnx

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Number formats; the first is the default."""
        return tuple(self.graphs)

    @property
    def graph_files(self) -> tuple[str, ...]:
        """Paths of all graphs."""
        return tuple(spec.file for graphs in self.graphs.values() for spec in graphs.by_name.values())

    def to_json(self) -> str:
        """Return the record as JSON text. Equal records give equal texts."""
        return json.dumps(asdict(self), indent=2) + "\n"


def compute_layout_id(record: LayoutRecord) -> str:
    """Return the id of a layout: a hash of the record without the id itself and the hashes of graph files.

    The metadata of a graph file contains the id, so the id cannot depend on the hash of that file.
    """
    files = {name: spec for name, spec in sorted(record.files.items()) if name not in record.graph_files}
    without_id = replace(record, layout_id="", files=files)
    return hashlib.sha256(without_id.to_json().encode()).hexdigest()[:ID_LENGTH]


def is_layout(folder: Path) -> bool:
    """Return whether a folder has the record of a layout."""
    return (folder / LAYOUT_RECORD).is_file()


def read_layout_record(folder: Path) -> LayoutRecord:
    """Read and check the record of a layout.

    Raises:
        BundleError: the file is missing, damaged, altered or of a newer release, or names a path outside the
            folder.
    """
    path = folder / LAYOUT_RECORD
    data = read_json_object(path, MAX_RECORD_BYTES)
    if data.get("record_version") != RECORD_VERSION:
        raise BundleError(f"{path}: has another record_version than {RECORD_VERSION}; export again")
    try:
        record = build(LayoutRecord, data)
        for name in record.files:
            parts = PurePosixPath(name).parts
            if ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or not name.isprintable():
                raise ValueError(f"{name!a} is not a path inside the folder")
        if not record.graphs or not set(record.graph_files) <= set(record.files):
            raise ValueError("describes no graphs, or graphs that it does not list as files")
        if compute_layout_id(record) != record.layout_id:
            raise ValueError("is altered: its content does not match its layout_id")
    except ValueError as error:
        raise BundleError(f"{path}: {error}; export the checkpoint again") from None
    return record


def check_layout_files(folder: Path, progress: Callable[[str], object]) -> LayoutRecord:
    """Compare every byte of a layout with its record, and return the record.

    Raises:
        BundleError: a file is missing, has another size, or is altered; the message names these files.
    """
    record = read_layout_record(folder)
    check_listed(folder, record.files, progress)
    return record

"""Write the folder of an export atomically. `--force` replaces a folder that only exports wrote to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from paligemma_onnx.runtime.atomic_file import staged_folder
from paligemma_onnx.runtime.bundle.layout_record import LAYOUT_RECORD
from paligemma_onnx.runtime.bundle.manifest import MANIFEST
from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE

from ..sources.tokenizer_file import TOKENIZER

_SUFFIXES = (".onnx", ".data")  # graphs and weight files
_LAYOUT_FILES = (
    LAYOUT_RECORD,
    TOKENIZER,
    "config.json",
    "genai_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)


def staged_export(output: Path, *, force: bool) -> AbstractContextManager[Path]:
    """Return a context that yields a folder, which is renamed to `output` if the block succeeds.

    Args:
        output: the final name.
        force: replace the existing folder if it contains an export and nothing else.

    Raises:
        OptionError: as for `staged_folder`, when the block is entered.
    """
    return staged_folder(output, force=force, refusal=_refusal)


def _refusal(entries: Sequence[Path]) -> str | None:
    """Return why a folder is neither a bundle nor a layout, or None."""
    names = {entry.name for entry in entries}
    written = _may_be_in_layout if LAYOUT_RECORD in names else _may_be_in_bundle
    if foreign := [entry.name for entry in entries if not written(entry)]:
        return f"contains {foreign[0]!r}, which no export wrote"
    return "is not a bundle" if names.isdisjoint({MANIFEST, LAYOUT_RECORD}) else None


def _may_be_in_bundle(entry: Path) -> bool:
    """Return whether the export of a bundle writes files of this name.

    The content is not read, so that damaged bundles can be replaced.
    """
    known = entry.name in (MANIFEST, TOKENIZER, TENSOR_TABLE) or entry.suffix in _SUFFIXES
    return entry.is_file() and known


def _may_be_in_layout(entry: Path) -> bool:
    """Return whether the export of a layout writes files, or a folder with files, of this name."""
    if entry.name == "onnx" and entry.is_dir():
        return all(map(_has_graph_suffix, entry.iterdir()))
    return entry.name in _LAYOUT_FILES or _has_graph_suffix(entry)


def _has_graph_suffix(entry: Path) -> bool:
    return entry.is_file() and entry.suffix.startswith(".onnx")  # .onnx, .onnx_data, .onnx_data_1

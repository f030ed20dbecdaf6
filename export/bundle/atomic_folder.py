"""Write the folder of an export atomically. `--force` replaces a folder that only exports wrote to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from paligemma_onnx.runtime.atomic_file import staged_folder
from paligemma_onnx.runtime.bundle.manifest import MANIFEST
from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE

from ..sources.tokenizer_file import TOKENIZER

_SUFFIXES = (".onnx", ".data")  # graphs and weight files


def staged_export(output: Path, *, force: bool, marker: str = MANIFEST) -> AbstractContextManager[Path]:
    """Return a context that yields a folder, which is renamed to `output` if the block succeeds.

    Args:
        output: the final name.
        force: replace the existing folder if it contains an export and nothing else.
        marker: file that every export of this kind has.

    Raises:
        OptionError: as for `staged_folder`, when the block is entered.
    """
    return staged_folder(output, force=force, refusal=partial(_refusal, marker))


def _refusal(marker: str, entries: Sequence[Path]) -> str | None:
    """Return why a folder is not an export with this marker, or None."""
    written = _may_be_exported if marker == MANIFEST else _may_be_layout
    if foreign := [entry.name for entry in entries if not written(entry)]:
        return f"contains {foreign[0]!r}, which no export wrote"
    if marker not in {entry.name for entry in entries}:
        return "is not a bundle" if marker == MANIFEST else f"has no {marker}"
    return None


def _may_be_exported(entry: Path) -> bool:
    """Return whether an export writes files of this name.

    The content is not read, so that damaged bundles can be replaced.
    """
    known = entry.name in (MANIFEST, TOKENIZER, TENSOR_TABLE) or entry.suffix in _SUFFIXES
    return entry.is_file() and known


def _may_be_layout(entry: Path) -> bool:
    """Return whether an export for another tool writes files, or a folder, of this name."""
    if entry.name == "onnx":
        return entry.is_dir() and all(".onnx" in file.suffix for file in entry.iterdir())
    return entry.is_file() and (entry.suffix == ".json" or entry.suffix.startswith(".onnx"))

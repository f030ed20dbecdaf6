"""Which .safetensors files a checkpoint folder has: one, or shards and an index of what is in which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import CheckpointError, quote_names, quote_value
from .json_file import read_json
from .safetensors_header import StoredTensor, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 24  # about 120 bytes a tensor
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class WeightFile:
    """One .safetensors file and its header."""

    path: Path
    tensors: Mapping[str, StoredTensor]  # by stored name


def find_weight_files(folder: Path) -> list[WeightFile]:
    """The checkpoint's files, headers read and compared with the index; they may be links to elsewhere.

    The names are those of the Hugging Face layout and no others: guessing which of several files is meant is
    how the wrong one gets loaded.

    Raises:
        CheckpointError: no such folder, no weights or not as safetensors, a shard that is missing or is not
            what the index says, or a broken file.
    """
    try:
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: not a checkpoint folder")
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error
    if SINGLE in names and INDEX in names:
        raise CheckpointError(f"{folder}: has both {SINGLE} and {INDEX}; remove the one that is out of date")
    if SINGLE in names:
        return [WeightFile(folder / SINGLE, read_header(folder / SINGLE))]
    if INDEX in names:
        return _shards(folder)
    raise CheckpointError(f"{folder}: {_absent(names)}")


def _absent(names: set[str]) -> str:
    """What to do about a folder without weights under the names that count."""
    if "adapter_model.safetensors" in names:
        return "holds a LoRA adapter and no model; give its base model, and this folder as the adapter"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"has neither {SINGLE} nor {INDEX}, only {quote_names(others)}; a whole model is named {SINGLE}"
        )
    if pickles := [name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES]:
        return (
            f"safetensors only, and this holds {quote_names(pickles)}; "
            "load it in transformers and write it again with save_pretrained"
        )
    return f"has neither {SINGLE} nor {INDEX}"


def _shards(folder: Path) -> list[WeightFile]:
    index = folder / INDEX
    by_shard: dict[str, set[str]] = {}
    for tensor, shard in _weight_map(index).items():
        if not _is_plain_name(shard):
            raise CheckpointError(
                f"{index}: {quote_value(shard)} is not the plain name of a .safetensors file"
            )
        by_shard.setdefault(shard, set()).add(tensor)
    files = [WeightFile(folder / shard, read_header(folder / shard)) for shard in sorted(by_shard)]
    for file in files:
        promised = by_shard[file.path.name]
        if absent := promised - file.tensors.keys():
            raise CheckpointError(f"{file.path}: lacks what {INDEX} lists for it: {quote_names(absent)}")
        if extra := file.tensors.keys() - promised:
            raise CheckpointError(
                f"{file.path}: holds what {INDEX} does not list for it: {quote_names(extra)}"
            )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    """Stored name of each tensor to the name of its shard."""
    entries = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"{index}: weight_map must be an object that names a file for each tensor")
    for tensor, shard in entries.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index}: the file of {quote_value(tensor)} is {quote_value(shard)}")
    return entries


def _is_plain_name(name: object) -> bool:
    """A name without any folder, drive or dots that climb, on either kind of system."""
    if not isinstance(name, str) or not name.isprintable() or not name.endswith(".safetensors"):
        return False
    return PurePosixPath(name).name == name == PureWindowsPath(name).name

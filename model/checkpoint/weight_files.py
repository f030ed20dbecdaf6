"""The .safetensors files of a checkpoint folder: a single file, or shards and their index."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import CheckpointError, quote_names, quote_value
from .json_file import read_json
from .safetensors_file import SafetensorsFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 24  # an index takes about 120 bytes per tensor
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def open_weight_files(folder: Path) -> list[SafetensorsFile]:
    """Open the weight files of a checkpoint folder and compare shards with the index.

    Only the file names of the Hugging Face layout are accepted, since a guess among several files may load
    the wrong one. The files may be links, as in the cache of huggingface_hub.

    Raises:
        CheckpointError: the folder does not exist or has no weights in safetensors format; or a file is
            missing, broken, or does not hold the tensors that the index lists for it.
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
        return [SafetensorsFile.open(folder / SINGLE)]
    if INDEX in names:
        return _open_shards(folder)
    raise CheckpointError(f"{folder}: {_explain_missing_weights(names)}")


def _explain_missing_weights(names: set[str]) -> str:
    """Return what the folder holds instead of weights under the accepted names, and the remedy."""
    if "adapter_model.safetensors" in names:
        return "holds a LoRA adapter but not a model; pass its base model, and this folder as the adapter"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"has neither {SINGLE} nor {INDEX}, only {quote_names(others)}; rename a whole model to {SINGLE}"
        )
    if pickles := [name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES]:
        return (
            f"safetensors only, and this folder holds {quote_names(pickles)}; "
            "load it in transformers and write it again with save_pretrained"
        )
    return f"has neither {SINGLE} nor {INDEX}"


def _open_shards(folder: Path) -> list[SafetensorsFile]:
    index = folder / INDEX
    tensors_by_shard: dict[str, set[str]] = {}
    for tensor, shard in _read_weight_map(index).items():
        if not _is_plain_name(shard):
            raise CheckpointError(
                f"{index}: {quote_value(shard)} is not the plain name of a .safetensors file"
            )
        tensors_by_shard.setdefault(shard, set()).add(tensor)
    files = [SafetensorsFile.open(folder / shard) for shard in sorted(tensors_by_shard)]
    for file in files:
        listed, stored = tensors_by_shard[file.path.name], file.tensors.keys()
        if missing := listed - stored:
            raise CheckpointError(f"{file.path}: lacks tensors that {INDEX} lists: {quote_names(missing)}")
        if extra := stored - listed:
            raise CheckpointError(
                f"{file.path}: holds tensors that {INDEX} does not list for it: {quote_names(extra)}"
            )
    return files


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return the shard name of each tensor, by the tensor's stored name."""
    weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must be an object that names a file for each tensor")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index}: the file of {quote_value(tensor)} is {quote_value(shard)}")
    return weight_map


def _is_plain_name(name: str) -> bool:
    """Return whether a file name has neither folder, drive nor "..", on POSIX and on Windows."""
    if not name.isprintable() or not name.endswith(".safetensors"):
        return False
    return PurePosixPath(name).name == name == PureWindowsPath(name).name

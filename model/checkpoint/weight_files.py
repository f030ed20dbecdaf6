"""The .safetensors files of a checkpoint folder: either a single file, or several shards and an index."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import CheckpointError, quote_names, quote_value
from .json_file import read_json
from .safetensors_file import StoredTensor, open_safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 24  # an index takes about 120 bytes per tensor
DOWNLOADS = ".cache/huggingface/download"  # of `hf download --local-dir`
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def open_weight_files(folder: Path) -> list[StoredTensor]:
    """Return all tensors of the weight files of a checkpoint folder; shards are compared with the index.

    Only the file names of the Hugging Face layout are accepted: if the folder holds several files, choosing a
    file by guessing may load wrong weights. The files may be links, as in the cache of huggingface_hub.

    Raises:
        CheckpointError: the folder does not exist or has no weights in safetensors format; or a file is
            missing, is broken, or does not hold the tensors that the index assigns to the file.
    """
    try:
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: not a checkpoint folder")
        names = {entry.name for entry in folder.iterdir()}
        names |= {entry.name for entry in (folder / DOWNLOADS).glob("*.incomplete")}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror})") from error
    if SINGLE in names and INDEX in names:
        raise CheckpointError(f"{folder}: has both {SINGLE} and {INDEX}; remove the one that is out of date")
    if SINGLE in names:
        return list(open_safetensors(folder / SINGLE).values())
    if INDEX in names:
        return _open_shards(folder / INDEX)
    raise CheckpointError(f"{folder}: {_explain_missing_weights(names)}")


def _explain_missing_weights(names: set[str]) -> str:
    """Return a phrase that names the files in a folder without weight files, and the remedy."""
    if "adapter_model.safetensors" in names:
        return "holds a LoRA adapter but not a model; pass its base model, and this folder as the adapter"
    if unfinished := [name for name in names if name.endswith(".incomplete")]:
        return f"the download of {quote_names(unfinished)} did not finish; run it again"
    if any(_SHARD.fullmatch(name) for name in names):
        return f"has shards of weights but no {INDEX}; fetch this file from the same place"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"has neither {SINGLE} nor {INDEX}, only {quote_names(others)}; rename a whole model to {SINGLE}"
        )
    if pickles := [name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES]:
        return (
            f"only safetensors are read, and this folder holds {quote_names(pickles)}; "
            "load it in transformers and write it again with save_pretrained"
        )
    return f"has neither {SINGLE} nor {INDEX}; fetch the weights, or write them with save_pretrained"


def _open_shards(index: Path) -> list[StoredTensor]:
    weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must be an object that names a file for each tensor")
    names_by_shard: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain_name(shard):
            file = f"the file of {quote_value(name)} is {quote_value(shard)}"
            raise CheckpointError(f"{index}: {file}, not the plain name of a .safetensors file")
        names_by_shard.setdefault(shard, set()).add(name)
    shards = {shard: open_safetensors(index.with_name(shard)) for shard in sorted(names_by_shard)}
    for shard, tensors in shards.items():
        path, listed, stored = index.with_name(shard), names_by_shard[shard], tensors.keys()
        if missing := listed - stored:
            raise CheckpointError(f"{path}: lacks tensors that {INDEX} lists: {quote_names(missing)}")
        if extra := stored - listed:
            problem = f"holds tensors that {INDEX} does not list for it"
            raise CheckpointError(f"{path}: {problem}: {quote_names(extra)}")
    return [tensor for tensors in shards.values() for tensor in tensors.values()]


def _is_plain_name(name: str) -> bool:
    """Return whether a file name has no folder, no drive and no "..", both on POSIX and on Windows."""
    if not name.isprintable() or not name.endswith(".safetensors"):
        return False
    return PurePosixPath(name).name == name == PureWindowsPath(name).name

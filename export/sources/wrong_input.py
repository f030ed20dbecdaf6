"""Recognise inputs of `export` other than checkpoints, and name the command for each."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names
from paligemma_onnx.model.checkpoint.json_file import read_json
from paligemma_onnx.model.checkpoint.lora_config import MAX_ADAPTER_CONFIG_BYTES
from paligemma_onnx.model.checkpoint.weight_files import INDEX, PICKLE_SUFFIXES, SINGLE
from paligemma_onnx.runtime.bundle.layout_record import LAYOUT_RECORD
from paligemma_onnx.runtime.bundle.manifest import MANIFEST

from .jax_checkpoint import NPZ
from .mask_decoder_npz import MASK_DECODER

JAX_SUFFIX = "-jax"  # suffix of the names of Google's repositories of JAX archives
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# https://huggingface.co/OWNER/NAME, with /tree/REVISION or /blob/REVISION/FILE after it, or hf://OWNER/NAME.
_URL = re.compile(
    r"(?:hf://|https?://[^/]+/)([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/([\w.-]+))?(?:[/?#].*)?"
)
_IS_URL = re.compile(r"(?:https?|hf|s3|gs)://|(?:www\.)?(?:huggingface\.co|hf\.co|kaggle\.com)/")
# The folder of a model in the cache of the hub client, the cache itself, and the folder around it.
_SNAPSHOTS = tuple(f"{parent}snapshots/*/config.json" for parent in ("", "models--*/", "hub/models--*/"))
_FILES = {
    ".gguf": "a model of llama.cpp, whose weights are quantised; export the checkpoint that it was made from",
    ".onnx": "an ONNX graph; export the checkpoint that it was made from",
    ".safetensors": f"a weight file; name the folder that contains it and {CONFIG}",
    ".json": f"a file of a checkpoint or adapter; name the folder that contains {CONFIG}",
    ".zip": "an archive; unpack it and name the folder",
    ".gz": "an archive; unpack it and name the folder",
    ".tar": "an archive; unpack it and name the folder",
}
_PICKLE = (
    "a pickle; load the model in transformers and write it again with save_pretrained, then name that folder"
)


def refuse_url(argument: str) -> None:
    """Raise CheckpointError if an argument is a URL; the message has the model's id if the URL names one."""
    if not _IS_URL.match(argument):
        return
    named = _URL.fullmatch(argument if "://" in argument else f"https://{argument}")
    if named is None or "kaggle" in argument:
        raise CheckpointError(f"{argument}: is a URL; download the files and name the folder")
    name = named[1] if named[2] is None else f"{named[1]}@{named[2]}"
    raise CheckpointError(
        f"{argument}: is a URL; use the id of the model: `paligemma-onnx export {name} ...`"
    )


def explain_file(path: Path) -> str:
    """Return a phrase with the kind of a file that is not a checkpoint, and the remedy."""
    suffix = path.suffix.lower()
    known = _PICKLE if suffix in PICKLE_SUFFIXES else _FILES.get(suffix)
    return (
        f"is {known}"
        if known
        else f"is a file; name the folder that contains {CONFIG}, or an .npz archive of JAX"
    )


def refuse_other_folders(folder: Path, name: str) -> None:
    """Raise CheckpointError for a folder that is an adapter, an export, or a folder of checkpoints.

    Args:
        folder: the folder, which may be in the cache of the hub client.
        name: the folder or id, as the user named it.
    """
    files = _names(folder)
    if ADAPTER_CONFIG in files and files.isdisjoint({SINGLE, INDEX}):
        command = f"paligemma-onnx export {_base_model(folder)} --output BUNDLE --adapter {shlex.quote(name)}"
        raise CheckpointError(f"{name}: is a LoRA adapter; export its base model with it: `{command}`")
    # The snapshot of a repository is empty if none of its files is one that a checkpoint has.
    if not files and folder == Path(name) and os.access(folder, os.R_OK):
        command = f"hf download OWNER/NAME --local-dir {shlex.quote(name)}"
        raise CheckpointError(f"{name}: is empty; download the checkpoint: `{command}`")
    has_weights = any(file.endswith(".safetensors") for file in files)
    if not has_weights and (graphs := [file for file in files if file.lower().endswith(".gguf")]):
        raise CheckpointError(f"{name}: {quote_names(graphs)} is {_FILES['.gguf']}")
    if LAYOUT_RECORD in files:
        raise CheckpointError(
            f"{name}: is the result of `export --layout`; name the checkpoint that it was exported from"
        )
    if CONFIG in files:
        return
    if snapshots := [path.parent for pattern in _SNAPSHOTS for path in sorted(folder.glob(pattern))]:
        example = shlex.quote(str(snapshots[-1]))
        raise CheckpointError(
            f"{name}: belongs to the cache of the Hugging Face Hub; name the folder of a snapshot: "
            f"`paligemma-onnx export {example} --output BUNDLE`"
        )
    if MANIFEST in files:
        command = f"paligemma-onnx generate --model {shlex.quote(name)} --image IMAGE PROMPT"
        raise CheckpointError(f"{name}: is a bundle, the result of an export; run it: `{command}`")
    if inner := [file for file in files if _has_config(folder / file)]:
        example = shlex.quote(str(Path(name) / max(inner, key=_last_number)))
        command = f"paligemma-onnx export {example} --output BUNDLE"
        raise CheckpointError(
            f"{name}: has no {CONFIG}, but these subfolders have one: {quote_names(inner)}; `{command}`"
        )
    if folder != Path(name):
        repository = name.partition("@")[0]
        if repository.endswith(JAX_SUFFIX):
            command = f"hf download {repository} FILE{NPZ} --local-dir ."
            raise CheckpointError(
                f"{name}: holds JAX weights; run `{command}`, and export the archive with --tokenizer"
            )
        raise CheckpointError(
            f"{name}: the repository has no {CONFIG} at its top; download the part that is a checkpoint with "
            f"`hf download {name} --local-dir FOLDER`, and export the folder that contains {CONFIG}"
        )
    if archives := [file for file in files if file.endswith(NPZ) and file != MASK_DECODER]:
        example = shlex.quote(str(Path(name) / min(archives)))
        command = f"paligemma-onnx export {example} --tokenizer tokenizer.json --output BUNDLE"
        raise CheckpointError(f"{name}: has JAX weights and no {CONFIG}; name the archive: `{command}`")


def refuse_inner_adapter(folder: Path) -> None:
    """Raise CheckpointError if the folder of a model also holds an adapter.

    transformers merges such an adapter, and without a choice the bundle would be another model.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        option = f"--adapter {shlex.quote(str(folder))}"
        raise CheckpointError(
            f"{folder}: holds a model and an adapter, which transformers adds to the model; add `{option}`, "
            f"or remove {ADAPTER_CONFIG} to export the model alone"
        )


def refuse_other_adapters(folder: Path, name: str) -> None:
    """Raise CheckpointError if a folder is a model, or only has subfolders with adapters."""
    files = _names(folder)
    if ADAPTER_CONFIG in files:
        return
    if MANIFEST in files:
        raise CheckpointError(f"{name}: is a bundle, not an adapter; name the folder with {ADAPTER_CONFIG}")
    if CONFIG in files:
        command = f"paligemma-onnx export {shlex.quote(name)} --output BUNDLE"
        raise CheckpointError(f"{name}: is a model, not an adapter; export it: `{command}`")
    if inner := [file for file in files if (folder / file / ADAPTER_CONFIG).is_file()]:
        example = shlex.quote(str(Path(name) / max(inner, key=_last_number)))
        raise CheckpointError(
            f"{name}: has no {ADAPTER_CONFIG}; give one of its folders: `--adapter {example}`"
        )
    raise CheckpointError(
        f"{name}: has no {ADAPTER_CONFIG}, which states rank and scale; fetch this file as well, or save the "
        "adapter again with save_pretrained of PEFT"
    )


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:  # reading the checkpoint reports it
        return set()


def _has_config(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file()


def _last_number(name: str) -> tuple[int, str]:
    """Return a key that orders checkpoint-900 before checkpoint-1000."""
    numbers: Iterable[str] = re.findall(r"\d{1,18}", name)
    return max((int(number) for number in numbers), default=-1), name


def _base_model(adapter: Path) -> str:
    """Return the base model that an adapter names, quoted for a shell."""
    try:
        base = read_json(adapter / ADAPTER_CONFIG, MAX_ADAPTER_CONFIG_BYTES).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    return shlex.quote(base) if isinstance(base, str) and base.isprintable() and base else "BASE_MODEL"

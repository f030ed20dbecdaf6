"""Find the checkpoint that an argument names: a folder, or the id of a model on the Hugging Face hub."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_value
from paligemma_onnx.runtime.resource_errors import resource_problem, translate_resource_errors

from .jax_checkpoint import NPZ
from .mask_decoder_npz import MASK_DECODER
from .wrong_input import explain_file, refuse_other_adapters, refuse_other_folders, refuse_url

# Excludes pickles and the original JAX arrays. The `*` of a pattern also matches a slash, so a second pattern
# excludes nested folders, such as a trainer's checkpoint-500.
CHECKPOINT_FILES = ("*.json", "*.safetensors", MASK_DECODER)
NESTED_FILES = "*/*"
_WEIGHTED = re.compile(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def resolve_checkpoint(checkpoint: str) -> Path:
    """Return the folder of a checkpoint, or its .npz archive.

    Args:
        checkpoint: a folder, an .npz file, or the id of a model: `owner/name` or `owner/name@revision`. A
            model that is not in the local cache of the hub client is downloaded.

    Raises:
        CheckpointError: the argument is neither a folder or archive nor an id that can be downloaded, or it
            names something other than a checkpoint.
        ResourceError: the disk is full.
    """
    folder = _find_folder(checkpoint)
    if folder.is_dir():
        refuse_other_folders(folder, checkpoint)
    return folder


def resolve_adapter(adapter: str) -> WeightedAdapter:
    """Return the folder and the weight of an adapter.

    Args:
        adapter: a folder or the id of a model, as for `resolve_checkpoint`, optionally followed by a colon
            and the weight, such as `lora:0.5`. Without a number the weight is 1. If a folder has the name
            `lora:0.5`, the argument names this folder, with weight 1.

    Raises:
        CheckpointError: as for `resolve_checkpoint`.
        ResourceError: the disk is full.
    """
    is_path = Path(adapter).exists()
    weighted = None if is_path else _WEIGHTED.fullmatch(adapter)
    name, weight = (adapter, 1.0) if weighted is None else (weighted[1], float(weighted[2]))
    before, colon, text = adapter.rpartition(":")
    if not is_path and weighted is None and colon and (Path(before).is_dir() or _HUB_ID.fullmatch(before)):
        raise CheckpointError(f"{adapter}: the weight {quote_value(text)} is not a finite number")
    if Path(name).is_file():
        parent = shlex.quote(str(Path(name).parent))
        raise CheckpointError(f"{name}: is a file; name the folder of the adapter: `--adapter {parent}`")
    folder = _find_folder(name)
    refuse_other_adapters(folder, name)
    return WeightedAdapter(folder, weight)


def _find_folder(checkpoint: str) -> Path:
    """Return the folder or archive that an argument names. Download it if it is a model on the hub."""
    folder = Path(checkpoint)
    try:
        is_file = folder.exists()
        if folder.is_dir() or (is_file and folder.suffix == NPZ):
            return folder
    except (OSError, ValueError):  # the name is too long or contains NUL
        raise CheckpointError(f"{quote_value(checkpoint)}: not a possible folder name") from None
    if is_file:
        raise CheckpointError(f"{checkpoint}: {explain_file(folder)}")
    refuse_url(checkpoint)
    hub_id = _HUB_ID.fullmatch(checkpoint)
    if not hub_id or checkpoint.startswith("."):
        raise CheckpointError(f"{checkpoint}: no such folder")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  optional dependency
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: no such folder; to download it from the hub, `pip install 'paligemma-onnx[hub]'`"
        ) from None
    if sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()
    name, revision = hub_id.groups()
    with translate_resource_errors(checkpoint):
        try:
            return Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=list(CHECKPOINT_FILES),
                    ignore_patterns=[NESTED_FILES],
                )
            )
        except Exception as error:  # the hub client also raises errors of the HTTP library that it uses
            if resource_problem(error):
                raise
            raise CheckpointError(f"{checkpoint}: no such folder, and {_explain(name, error)}") from error


def _explain(name: str, error: Exception) -> str:
    """Return one line that says why a download failed and how to fix it."""
    from huggingface_hub import errors  # noqa: PLC0415  optional dependency

    if isinstance(error, errors.GatedRepoError):
        return (
            f"the model is gated: accept its licence at https://huggingface.co/{name}, "
            "then run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model; if it is private, run `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has the model, but not this revision"
    if isinstance(error, errors.HFValidationError):
        return "it is not a valid id on the hub"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub returned HTTP status {error.response.status_code}; try again later"
    return (
        "the hub cannot be reached and the local cache does not have the model; check the connection or name "
        "a folder"
    )

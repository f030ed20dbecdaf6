"""A checkpoint by folder, or by its id on the Hugging Face hub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_value
from paligemma_onnx.runtime.resource_errors import resource_problem, translate_resource_errors

FILES = ("*.json", "*.safetensors")  # never pickles, nor the original JAX arrays
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def resolve_checkpoint(checkpoint: str) -> Path:
    """A folder as it is; `owner/name` or `owner/name@revision` is downloaded, or found in the local cache.

    Raises:
        CheckpointError: neither a folder nor an id that can be downloaded.
        ResourceError: the disk is full.
    """
    folder = Path(checkpoint)
    try:
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        raise CheckpointError(f"{quote_value(checkpoint)}: not a possible folder name") from None
    if is_file:
        raise CheckpointError(f"{checkpoint}: is a file; name the folder that holds config.json")
    named = _HUB_ID.fullmatch(checkpoint)
    if not named or checkpoint.startswith("."):
        raise CheckpointError(f"{checkpoint}: no such folder")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  optional
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: no such folder; to download it from the hub, `pip install 'paligemma-onnx[hub]'`"
        ) from None
    if sys.stderr is None or not sys.stderr.isatty():  # bars are for terminals
        disable_progress_bars()
    with translate_resource_errors(checkpoint):
        try:
            return Path(snapshot_download(named[1], revision=named[2], allow_patterns=list(FILES)))
        except Exception as error:  # also of the HTTP library below, which is the hub client's own choice
            if resource_problem(error):
                raise
            raise CheckpointError(f"{checkpoint}: no such folder, and {_reason(named[1], error)}") from error


def _reason(name: str, error: Exception) -> str:
    """What the hub, or the way to it, objects to."""
    from huggingface_hub import errors  # noqa: PLC0415  optional

    if isinstance(error, errors.GatedRepoError):
        return f"its licence waits at https://huggingface.co/{name}: accept it, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such model on the hub; if it is a private one, `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has the model, but not in that revision"
    if isinstance(error, errors.HFValidationError):
        return "not a possible id on the hub"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers with an error ({error.response.status_code}); try again later"
    return "the hub cannot be reached and the local cache lacks it; check the connection, or name a folder"

"""A checkpoint by folder, or by its id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from paligemma_onnx.model.errors import CheckpointError

FILES = ("*.json", "*.safetensors")  # never pickles, nor the original JAX arrays
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_checkpoint(checkpoint: str) -> Path:
    """A folder as it is; `owner/name` is downloaded, or found in the local cache.

    Raises:
        CheckpointError: neither a folder nor an id that can be downloaded.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{checkpoint}: is a file; name the folder that holds config.json")
    if not _HUB_ID.fullmatch(checkpoint) or checkpoint.startswith("."):
        raise CheckpointError(f"{checkpoint}: no such folder")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  optional
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: no such folder; to download it from the hub, `pip install 'paligemma-onnx[hub]'`"
        ) from None
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise CheckpointError(
            f"{checkpoint}: accept the licence at https://huggingface.co/{checkpoint}, then `hf auth login`"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: no such folder, and the hub says: {reason}") from None

"""Read the tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

TOKENIZER = "tokenizer.json"  # file name in the folder of a checkpoint, and in a bundle


def open_tokenizer(path: Path) -> PromptTokenizer:
    """Return the tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: the file is missing, damaged, or not PaliGemma's.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; download it with the checkpoint")
    try:
        return PromptTokenizer.load(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None

"""Read the tokenizer of a checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

SENTENCEPIECE = "tokenizer.model"  # the older form, which some repositories have alone
TOKENIZER_SOURCE = "google/paligemma-3b-pt-224"  # PaliGemma 2 has the same tokenizer
TOKENIZER = "tokenizer.json"  # file name in the folder of a checkpoint, and in a bundle


def open_tokenizer(path: Path) -> PromptTokenizer:
    """Return the tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: the file is missing, damaged, or not PaliGemma's.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; {_explain_missing(path)}")
    try:
        return PromptTokenizer.load(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None


def _explain_missing(path: Path) -> str:
    """Return how to get a tokenizer.json."""
    folder = shlex.quote(str(path.parent))
    download = f"download it: `hf download {TOKENIZER_SOURCE} {path.name} --local-dir {folder}`"
    if path.with_name(SENTENCEPIECE).exists():
        return f"{SENTENCEPIECE} is not read; {download}, or convert yours with AutoTokenizer of transformers"
    return download

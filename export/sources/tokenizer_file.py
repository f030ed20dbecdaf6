"""Read the tokenizer of a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names
from paligemma_onnx.model.checkpoint.json_file import read_json
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

SENTENCEPIECE = "tokenizer.model"  # older format; some repositories have only this file
TOKENIZER_SOURCE = "google/paligemma-3b-pt-224"  # PaliGemma 2 has the same tokenizer
TOKENIZER = "tokenizer.json"  # file name in the folder of a checkpoint, and in a bundle
TOKENIZER_CONFIG, ADDED_TOKENS = "tokenizer_config.json", "added_tokens.json"
MAX_CONFIG_BYTES = 1 << 24  # published files list 1,200 added tokens in 250 kB


def open_tokenizer(path: Path) -> PromptTokenizer:
    """Return the tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: the file is missing or damaged, or is not a tokenizer of PaliGemma.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; {_explain_missing(path)}")
    try:
        return PromptTokenizer.load(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None


def find_missing_tokens(path: Path) -> str | None:
    """Return a line about tokens that other files add and a tokenizer.json lacks, or None if it has all.

    transformers adds these tokens when it loads the folder. Without them, `<s_menu>` would be text.

    Raises:
        CheckpointError: a file is damaged.
    """
    added: set[str] = set()
    for name in (TOKENIZER_CONFIG, ADDED_TOKENS):
        if path.with_name(name).exists():
            content = read_json(path.with_name(name), MAX_CONFIG_BYTES)
            added |= set(content) if name == ADDED_TOKENS else _listed_tokens(content)
    missing = added - open_tokenizer(path).library.get_vocab(with_added_tokens=True).keys()
    if not missing:
        return None
    return (
        f"{path}: lacks tokens that {TOKENIZER_CONFIG} or {ADDED_TOKENS} adds: {quote_names(missing)}; "
        "prompts treat them as ordinary text; save the tokenizer again with AutoTokenizer of transformers"
    )


def _listed_tokens(config: Mapping[str, object]) -> set[str]:
    """Return the tokens that a tokenizer_config.json adds, in the forms that transformers 4 and 5 write."""
    tokens = set[str]()
    for key in ("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens"):
        listed = config.get(key) or []
        entries = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else []
        for entry in entries:
            content = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(content, str):
                tokens.add(content)
    return tokens


def _explain_missing(path: Path) -> str:
    """Return the remedy for a missing tokenizer.json, as part of an error message."""
    folder = shlex.quote(str(path.parent))
    download = f"download it: `hf download {TOKENIZER_SOURCE} {path.name} --local-dir {folder}`"
    if path.with_name(SENTENCEPIECE).exists():
        return f"{SENTENCEPIECE} is not read; {download}, or convert yours with AutoTokenizer of transformers"
    return download

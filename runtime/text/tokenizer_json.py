"""Build Gemma's tokenizer from a tokenizer.json that has been checked.

The file is parsed as JSON and checked. The tokenizer is then built from the vocabulary, the merges and the
added tokens of the file. Other content of the file (padding, truncation, the post-processor of PaliGemma 1
that adds BOS) has no effect.

The file reader of the `tokenizers` library is not used: hostile files make it panic (a BaseException, and a
trace on stderr) or abort the process. A hash in the manifest does not protect from such files, since an
attacker can change the file and the manifest together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from ..errors import BundleError
from .special_tokens import CONTROL_TOKENS

SPACE = "▁"  # U+2581 stands for a space in SentencePiece (arXiv 1808.06226, section 3.2)
_MAX_FILE_BYTES = 2**28  # eight times the largest published file (34 MB)
_MAX_ID = 2**24  # sixty times the largest published vocabulary
_NORMALIZER: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
# The pre-tokenizer is accepted but not built: it splits at spaces, and the normalizer leaves no spaces.
_SPLIT: list[dict[str, Any]] = [
    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
]
_DECODER: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
# Options of BPE that Gemma does not use. Some values of these options make the library abort.
_UNUSED_BPE_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
_ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class _InvalidFileError(Exception):
    """The file cannot be used. The message completes a sentence that begins with the name of the file."""


@dataclass(frozen=True)
class TokenizerFile:
    """Content of a tokenizer.json that passed the checks."""

    library: Tokenizer
    vocabulary: Mapping[str, int]  # token -> id, added tokens included
    special_ids: frozenset[int]  # ids of the tokens that the file declares special
    byte_values: Mapping[int, int]  # id of each <0xNN> token -> the byte


def read_tokenizer_file(path: Path) -> TokenizerFile:
    """Read the tokenizer.json of a Gemma model, check it, and return its content.

    Raises:
        BundleError: the file is missing, unreadable or damaged, or is not a tokenizer of Gemma.
    """
    try:
        return _build(_parse(path))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except _InvalidFileError as error:
        reason = str(error)
        cause: BaseException = error
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        cause = error
    except BaseException as error:  # a panic of the library is not an Exception
        reason = "is damaged: a field is missing or has a wrong type"
        cause = error
    raise BundleError(f"{path}: {reason}; copy tokenizer.json from the checkpoint again") from cause


def _parse(path: Path) -> Any:
    if not path.is_file():
        raise _InvalidFileError("is not a file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise _InvalidFileError(f"is larger than {_MAX_FILE_BYTES} bytes")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise _InvalidFileError("is a Git LFS pointer: run git lfs pull")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _InvalidFileError("is cut short or is not JSON") from error


def _build(document: Any) -> TokenizerFile:
    """Return the tokenizer that a parsed file describes. Raise an error if it differs from Gemma's."""
    normalizer, splitter, decoder = (document[part] for part in ("normalizer", "pre_tokenizer", "decoder"))
    if not (
        _has_steps(normalizer, "normalizers", _NORMALIZER)
        and (splitter is None or _has_steps(splitter, "pretokenizers", _SPLIT))
        and _has_steps(decoder, "decoders", _DECODER)
    ):
        raise _InvalidFileError("is not Gemma's: its normalizer, pre-tokenizer or decoder differ")
    library = Tokenizer(_bpe(document["model"]))
    library.normalizer = normalizers.Replace(" ", SPACE)
    library.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special_ids = _add_tokens(library, document["added_tokens"])
    added = {token.content: token_id for token_id, token in library.get_added_tokens_decoder().items()}
    vocabulary: dict[str, int] = document["model"]["vocab"] | added
    # The library would encode a control token that is not an added token character by character.
    library.add_special_tokens(
        [token for token in CONTROL_TOKENS if token in vocabulary and token not in added]
    )
    return TokenizerFile(library, vocabulary, special_ids, _byte_values(vocabulary))


def _has_steps(section: Any, inner: str, expected: list[dict[str, Any]]) -> bool:
    """Return whether a section is the expected step, or a sequence of the expected steps."""
    steps = section[inner] if section["type"] == "Sequence" else [section]
    return len(steps) == len(expected) and all(
        fields.items() <= step.items() for fields, step in zip(expected, steps, strict=True)
    )


def _bpe(model: Any) -> BPE:
    """Return Gemma's byte-pair encoding. It has a token for every byte, so it needs no unknown token."""
    vocabulary: dict[str, int] = model["vocab"]
    unused = any(model.get(option) for option in _UNUSED_BPE_OPTIONS)
    if model["type"] != "BPE" or model["byte_fallback"] is not True or unused:
        raise _InvalidFileError("is not Gemma's: it is not a plain BPE model with byte fallback")
    ids = set(vocabulary.values())
    if len(ids) != len(vocabulary) or not all(type(id_) is int and 0 <= id_ < _MAX_ID for id_ in ids):
        raise _InvalidFileError("is damaged: its vocabulary has duplicate ids or ids out of range")
    # A merge is a list of two tokens or, in older files, a text with a space between them.
    split = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [(left, right) for left, right in split]
    # The library panics or aborts on merges of unknown tokens.
    if not all(
        left in vocabulary and right in vocabulary and left + right in vocabulary for left, right in merges
    ):
        raise _InvalidFileError("is damaged: a merge has a token that is not in its vocabulary")
    return BPE(vocab=vocabulary, merges=merges, byte_fallback=True)


def _byte_values(vocabulary: dict[str, int]) -> dict[int, int]:
    """Return a map from the id of each byte token to the byte."""
    values = {}
    for byte in range(256):
        # Gemma 1 has the token "\t" instead of <0x09>.
        plain = vocabulary.get(chr(byte)) if byte < 128 else None
        token_id = vocabulary.get(f"<0x{byte:02X}>", plain)
        if token_id is None:
            raise _InvalidFileError(f"is not Gemma's: it has no token <0x{byte:02X}>")
        values[token_id] = byte
    return values


def _add_tokens(library: Tokenizer, entries: Any) -> frozenset[int]:
    """Add the file's added tokens under the file's ids; return the ids of the special ones."""
    entries = sorted(entries, key=lambda entry: entry["id"])
    library.add_tokens(
        [
            AddedToken(entry["content"], **{flag: entry[flag] for flag in _ADDED_TOKEN_FLAGS})
            for entry in entries
        ]
    )
    added = library.get_added_tokens_decoder()
    for entry in entries:
        token = added.get(entry["id"])
        if token is None or (token.content, token.special) != (entry["content"], entry["special"]):
            raise _InvalidFileError("is damaged: its added tokens do not follow its vocabulary")
    return frozenset(token_id for token_id, token in added.items() if token.special)

"""Reads a tokenizer.json whole and sound, or says in one line what is wrong with it.

The file is read as JSON and checked, and the tokenizer is built from its vocabulary, merges and added tokens.
The library's own reader is not used: over hostile files it panics (a BaseException, and a trace on stderr) or
aborts the process. What else the file may hold (padding, truncation, PaliGemma 1's post-processor that adds
BOS) has no effect.
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

SPACE = "▁"  # U+2581, how SentencePiece writes a space (arXiv 1808.06226, section 3.2)
_MAX_FILE_BYTES = 2**28  # eight times the largest published file (34 MB)
_MAX_ID = 2**24  # sixty times the largest published vocabulary
_NORMALIZER: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
# Accepted, and left out: it splits at spaces, of which the normalizer leaves none.
_SPLIT: list[dict[str, Any]] = [
    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
]
_DECODER: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


class _NotUsableError(Exception):
    """What is wrong with the file, in our words."""


@dataclass(frozen=True)
class TokenizerFile:
    """What a sound file holds."""

    library: Tokenizer
    vocabulary: Mapping[str, int]  # added tokens included
    control_ids: frozenset[int]  # what the file calls special
    byte_values: Mapping[int, int]  # id of each <0xNN> piece -> the byte


def read_tokenizer_file(path: Path) -> TokenizerFile:
    """Read a tokenizer.json of a Gemma model.

    Raises:
        BundleError: the file is missing, unreadable, damaged, or not Gemma's.
    """
    try:
        return _build(_read(path))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except _NotUsableError as error:
        reason = str(error)
        cause: BaseException = error
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        cause = error
    except BaseException as error:  # a panic of the library is not an Exception
        reason = "is damaged: a field is missing or has a wrong type"
        cause = error
    raise BundleError(f"{path}: {reason}; take a sound tokenizer.json from the checkpoint") from cause


def _read(path: Path) -> Any:
    """Parse the file as JSON."""
    if not path.is_file():
        raise _NotUsableError("is not a file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise _NotUsableError(f"is larger than {_MAX_FILE_BYTES} bytes")
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):
        raise _NotUsableError("is a Git LFS pointer: run git lfs pull")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _NotUsableError("is cut short or is not JSON") from error


def _build(document: Any) -> TokenizerFile:
    """Check that the file describes Gemma's tokenizer, and build it."""
    normalizer, splitter, decoder = (document[part] for part in ("normalizer", "pre_tokenizer", "decoder"))
    if not (
        _has_steps(normalizer, "normalizers", _NORMALIZER)
        and (splitter is None or _has_steps(splitter, "pretokenizers", _SPLIT))
        and _has_steps(decoder, "decoders", _DECODER)
    ):
        raise _NotUsableError("is not Gemma's: its normalizer, pre-tokenizer or decoder differ")
    library = Tokenizer(_bpe(document["model"]))
    library.normalizer = normalizers.Replace(" ", SPACE)
    library.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control_ids = _add_tokens(library, document["added_tokens"])
    library.encode_special_tokens = True  # the library means: encode the text of special tokens as any text
    vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)
    return TokenizerFile(library, vocabulary, control_ids, _byte_values(vocabulary))


def _has_steps(section: Any, inner: str, expected: list[dict[str, Any]]) -> bool:
    """Is this part of the file the expected step, or a sequence of the expected steps?"""
    steps = section[inner] if section["type"] == "Sequence" else [section]
    return len(steps) == len(expected) and all(
        known.items() <= step.items() for known, step in zip(expected, steps, strict=True)
    )


def _bpe(model: Any) -> BPE:
    """Gemma's byte-pair encoding; with a piece for every byte it needs no unknown token."""
    vocabulary: dict[str, int] = model["vocab"]
    plain = not any(
        model.get(name)
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    )
    if not (model["type"] == "BPE" and model["byte_fallback"] is True and plain):
        raise _NotUsableError("is not Gemma's: it is no plain BPE model with byte fallback")
    ids = set(vocabulary.values())
    if len(ids) != len(vocabulary) or not all(type(one) is int and 0 <= one < _MAX_ID for one in ids):
        raise _NotUsableError("is damaged: its vocabulary has ids twice or out of range")
    merges = [_pair(merge) for merge in model["merges"]]
    # The library would panic over such a merge, or abort.
    if not all({left, right, left + right} <= vocabulary.keys() for left, right in merges):
        raise _NotUsableError("is damaged: a merge has a piece that its vocabulary lacks")
    return BPE(vocab=vocabulary, merges=merges, byte_fallback=True)


def _pair(merge: Any) -> tuple[str, str]:
    """Two pieces that merge: a list of two or, in older files, text with a space between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _byte_values(vocabulary: dict[str, int]) -> dict[int, int]:
    """Id of the piece of each byte -> the byte."""
    values = {}
    for byte in range(256):
        # Gemma 1 has the piece "\t" in place of <0x09>.
        plain = vocabulary.get(chr(byte)) if byte < 128 else None
        token_id = vocabulary.get(f"<0x{byte:02X}>", plain)
        if token_id is None:
            raise _NotUsableError(f"is not Gemma's: it lacks the byte piece <0x{byte:02X}>")
        values[token_id] = byte
    return values


def _add_tokens(library: Tokenizer, entries: Any) -> frozenset[int]:
    """Add the file's added tokens under the file's ids; the ids of special ones."""
    entries = sorted(entries, key=lambda entry: entry["id"])
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    library.add_tokens(
        [AddedToken(entry["content"], **{flag: entry[flag] for flag in flags}) for entry in entries]
    )
    added = library.get_added_tokens_decoder()
    for entry in entries:
        token = added.get(entry["id"])
        if token is None or (token.content, token.special) != (entry["content"], entry["special"]):
            raise _NotUsableError("is damaged: its added tokens do not follow its vocabulary")
    return frozenset(token_id for token_id, token in added.items() if token.special)

"""Prompt to token ids and token ids to text, with a PaliGemma checkpoint's tokenizer.json.

The file is read as JSON and checked, and the tokenizer is built from its vocabulary, merges and added tokens.
The library's own reader is not used: over hostile files it panics (a BaseException, and a trace on stderr) or
aborts the process. What else the file may hold (padding, truncation, PaliGemma 1's post-processor that adds
BOS) has no effect: BOS, prompt, newline (arXiv 2407.07726, section 3.1) are put together here.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from paligemma_onnx.runtime.errors import BundleError, PromptError

BOS = "<bos>"
EOS = "<eos>"
PAD = "<pad>"
IMAGE = "<image>"
NEWLINE = "\n"

_SPACE = "▁"  # U+2581, how SentencePiece writes a space (arXiv 1808.06226, section 3.2)
_MAX_FILE_BYTES = 2**28  # eight times the largest published file (34 MB)
_MAX_ID = 2**24  # sixty times the largest published vocabulary
_NORMALIZER: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
# Accepted, and left out: it splits at spaces, of which the normalizer leaves none.
_SPLIT: list[dict[str, Any]] = [
    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
]
_DECODER: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


class _NotUsableError(Exception):
    """What is wrong with the file, in our words."""


@dataclass(frozen=True)
class PromptTokenizer:
    """A Gemma tokenizer that lets no control token arise from text. Safe to share between threads."""

    bos_id: int
    eos_id: int
    pad_id: int
    image_id: int
    newline_id: int
    size: int  # largest id + 1; rows of the embedding table beyond it have no token
    control_ids: frozenset[int]  # what the file calls special: never made from text, never printed
    byte_values: Mapping[int, int] = field(repr=False)  # id of each <0xNN> piece -> the byte
    longest_piece: int  # UTF-8 bytes: no token stands for more of a prompt
    source: Path
    library: Tokenizer = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> PromptTokenizer:
        """Read a tokenizer.json.

        Raises:
            BundleError: the file is missing, unreadable, damaged, or not of PaliGemma.
        """
        try:
            return _build(path, _read(path))
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

    def token_id(self, piece: str) -> int:
        """Id of a piece such as `<image>` or `<loc0000>`.

        Raises:
            BundleError: the tokenizer has no such piece.
        """
        found: int | None = self.library.token_to_id(piece)
        if found is None:
            raise BundleError(
                f"{self.source}: has no piece {piece!r}; take tokenizer.json from a PaliGemma checkpoint"
            )
        return found

    def encode(self, prompt: str, max_tokens: int) -> tuple[int, ...]:
        """Ids of BOS, the prompt and a newline, T of them, T <= `max_tokens`.

        Prompt and newline are tokenised together, as transformers does (the paper keeps the newline apart,
        which differs only for prompts that end in newlines). Text such as `<eos>` is spelt out in ordinary
        pieces; `<loc0123>` and `<seg001>` become their tokens.

        Raises:
            PromptError: not valid Unicode text, too long, or control tokens would arise from it.
        """
        if not isinstance(prompt, str):
            raise PromptError(f"the prompt must be text (str), not {type(prompt).__name__}")
        try:
            length = len(prompt.encode("utf-8"))
        except UnicodeEncodeError as error:
            code = ord(prompt[error.start])
            raise PromptError(
                f"the prompt holds half a character (the surrogate U+{code:04X}) at position {error.start}; "
                "pass valid Unicode"
            ) from error
        limit = max_tokens * self.longest_piece
        if length > limit:
            raise PromptError(
                f"the prompt is {length} bytes long and cannot fit: {max_tokens} tokens are left for it, "
                f"at most {limit} bytes; shorten it"
            )
        text_ids = self.library.encode(prompt + NEWLINE, add_special_tokens=False).ids
        ids = (self.bos_id, *text_ids)
        if not self.control_ids.isdisjoint(text_ids):
            raise PromptError("text in the prompt would become a control token; remove what stands in <...>")
        if len(ids) > max_tokens:
            raise PromptError(
                f"the prompt is {len(ids)} tokens long, {BOS} and newline included, but {max_tokens} are "
                "left for it; shorten it"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, as `Detokenizer` gives it piece by piece."""
        detokenizer = Detokenizer(self)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])


class Detokenizer:
    """Turns the ids of one answer into text as they come, and never gives half a character.

    Gemma's decoder looks at one piece at a time, except for a character spelt in byte pieces: its bytes are
    held back until it is whole. Bytes that are no UTF-8 become U+FFFD, one for each maximal part of a
    character, as the Unicode Standard recommends (section 3.9); the `tokenizers` library writes one for each
    byte, and for those of the valid characters beside them, too. Control tokens, and ids without a token,
    give nothing.
    """

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        """Start an answer."""
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Text that is certain once `token_id` has come; may be empty."""
        tokenizer = self._tokenizer
        if token_id in tokenizer.control_ids or tokenizer.library.id_to_token(token_id) is None:
            return ""
        byte = tokenizer.byte_values.get(token_id)
        if byte is not None:
            return self._utf8.decode(bytes([byte]))
        piece: str = tokenizer.library.decode([token_id])
        return self.finish() + piece

    def finish(self) -> str:
        """What was held back: U+FFFD if the answer stopped within a character, else nothing."""
        return self._utf8.decode(b"", final=True)


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


def _build(path: Path, document: Any) -> PromptTokenizer:
    """Check that the file describes Gemma's tokenizer, and build it."""
    normalizer, splitter, decoder = (document[part] for part in ("normalizer", "pre_tokenizer", "decoder"))
    if not (
        _has_steps(normalizer, "normalizers", _NORMALIZER)
        and (splitter is None or _has_steps(splitter, "pretokenizers", _SPLIT))
        and _has_steps(decoder, "decoders", _DECODER)
    ):
        raise _NotUsableError("is not Gemma's: its normalizer, pre-tokenizer or decoder differ")
    library = Tokenizer(_bpe(document["model"]))
    library.normalizer = normalizers.Replace(" ", _SPACE)
    library.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control_ids = _add_tokens(library, document["added_tokens"])
    library.encode_special_tokens = True  # the library means: encode the text of special tokens as any text
    vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)
    missing = [piece for piece in (BOS, EOS, PAD, IMAGE, NEWLINE) if piece not in vocabulary]
    if missing:
        raise _NotUsableError(f"is not PaliGemma's: it lacks {', '.join(map(repr, missing))}")
    return PromptTokenizer(
        bos_id=vocabulary[BOS],
        eos_id=vocabulary[EOS],
        pad_id=vocabulary[PAD],
        image_id=vocabulary[IMAGE],
        newline_id=vocabulary[NEWLINE],
        size=max(vocabulary.values()) + 1,
        control_ids=control_ids | {vocabulary[piece] for piece in (BOS, EOS, PAD, IMAGE)},
        byte_values=_byte_values(vocabulary),
        longest_piece=max(len(piece.replace(_SPACE, " ").encode("utf-8")) for piece in vocabulary),
        source=path,
        library=library,
    )


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

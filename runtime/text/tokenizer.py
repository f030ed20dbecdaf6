"""Prompt to token ids and token ids to text, with a PaliGemma checkpoint's tokenizer.json."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from ..errors import BundleError, PromptError
from .special_tokens import BOS, EOS, IMAGE, PAD
from .tokenizer_json import SPACE, read_tokenizer_file

NEWLINE = "\n"


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
        file = read_tokenizer_file(path)
        vocabulary = file.vocabulary
        missing = [piece for piece in (BOS, EOS, PAD, IMAGE, NEWLINE) if piece not in vocabulary]
        if missing:
            raise BundleError(
                f"{path}: is not PaliGemma's: it lacks {', '.join(map(repr, missing))}; "
                "take tokenizer.json from a PaliGemma checkpoint"
            )
        return cls(
            bos_id=vocabulary[BOS],
            eos_id=vocabulary[EOS],
            pad_id=vocabulary[PAD],
            image_id=vocabulary[IMAGE],
            newline_id=vocabulary[NEWLINE],
            size=max(vocabulary.values()) + 1,
            control_ids=file.control_ids | {vocabulary[piece] for piece in (BOS, EOS, PAD, IMAGE)},
            byte_values=file.byte_values,
            longest_piece=max(len(piece.replace(SPACE, " ").encode("utf-8")) for piece in vocabulary),
            source=path,
            library=file.library,
        )

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

"""Conversion of prompts to token ids and of token ids to text, with PaliGemma's tokenizer.json.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from ..errors import BundleError, PromptError
from .prompt_prefix import drop_prefix
from .special_tokens import BOS, CONTROL_TOKENS, EOS, IMAGE, LAST_LOCATION, PAD
from .tokenizer_json import SPACE, read_tokenizer_file

NEWLINE = "\n"


@dataclass(frozen=True)
class PromptTokenizer:
    """A Gemma tokenizer that never turns a prompt into a control token. Threads may share it.

    Attributes:
        bos_id: id of `<bos>`. `eos_id`, `pad_id`, `image_id` and `newline_id` are the ids of their tokens.
        size: largest id + 1. Rows of the embedding from `size` on have no token.
        control_ids: ids of `<bos>`, `<eos>`, `<pad>`, `<unk>` and `<image>`. A prompt that contains one of
            these tokens is refused.
        special_ids: the control ids, and the other ids that the file declares special, such as the tokens
            that a fine-tune added. They are hidden in an answer unless the caller asks for them.
        byte_values: map from the id of each `<0xNN>` token to the byte NN.
        max_token_bytes: number of UTF-8 bytes of the longest token. No token stands for more bytes of a
            prompt.
        source: the file, for messages.
        library: the tokenizer of the `tokenizers` library.
    """

    bos_id: int
    eos_id: int
    pad_id: int
    image_id: int
    newline_id: int
    size: int
    control_ids: frozenset[int]
    special_ids: frozenset[int]
    byte_values: Mapping[int, int] = field(repr=False)
    max_token_bytes: int
    source: Path
    library: Tokenizer = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> PromptTokenizer:
        """Return the tokenizer that a tokenizer.json describes.

        Raises:
            BundleError: the file is missing, unreadable or damaged, or is not a tokenizer of PaliGemma.
        """
        file = read_tokenizer_file(path)
        vocabulary = file.vocabulary
        missing = [token for token in (BOS, EOS, PAD, IMAGE, NEWLINE) if token not in vocabulary]
        if missing:
            raise BundleError(
                f"{path}: is not PaliGemma's: it lacks {', '.join(map(repr, missing))}; "
                "take tokenizer.json from a PaliGemma checkpoint"
            )
        control_ids = frozenset(vocabulary[token] for token in CONTROL_TOKENS if token in vocabulary)
        return cls(
            bos_id=vocabulary[BOS],
            eos_id=vocabulary[EOS],
            pad_id=vocabulary[PAD],
            image_id=vocabulary[IMAGE],
            newline_id=vocabulary[NEWLINE],
            size=max(vocabulary.values()) + 1,
            control_ids=control_ids,
            special_ids=file.special_ids | control_ids,
            byte_values=file.byte_values,
            max_token_bytes=max(len(token.replace(SPACE, " ").encode("utf-8")) for token in vocabulary),
            source=path,
            library=file.library,
        )

    def token_id(self, token: str) -> int:
        """Return the id of a token such as `<image>` or `<loc0000>`.

        Raises:
            BundleError: the vocabulary does not have this token.
        """
        token_id: int | None = self.library.token_to_id(token)
        if token_id is None:
            raise BundleError(
                f"{self.source}: has no token {token!r}; take tokenizer.json from a PaliGemma checkpoint"
            )
        return token_id

    @cached_property
    def location_ids(self) -> tuple[int, ...]:
        """Ids of the location tokens that the vocabulary has, from the top or left edge."""
        names = (f"<loc{number:04d}>" for number in range(LAST_LOCATION + 1))
        ids = map(self.library.token_to_id, names)
        return tuple(token_id for token_id in ids if token_id is not None)

    def token_name(self, token_id: int) -> str:
        """Return the name of an id in the vocabulary; an id without a token has an empty name."""
        return self.library.id_to_token(token_id) or ""

    def encode(self, prompt: str, max_tokens: int, images: int = 1) -> tuple[int, ...]:
        """Return the ids of BOS, the prompt and a newline: T ids, where T is at most `max_tokens`.

        `<image>` once per image and `<bos>` at the beginning of the prompt are dropped (`drop_prefix`).

        Prompt and newline are tokenised together, as in transformers. (The paper tokenises the newline
        separately. The ids differ only for prompts that end in newlines.) The texts `<loc0123>`,
        `<seg001>` and those of a fine-tune's special tokens are encoded as the tokens with these names.

        Args:
            prompt: the text.
            max_tokens: the largest number of ids.
            images: number of images that the prompt is about.

        Raises:
            PromptError: the prompt is not valid Unicode text, is too long, begins with a wrong number of
                `<image>`, or contains a control token elsewhere.
        """
        if not isinstance(prompt, str):
            raise PromptError(f"the prompt must be text (str), not {type(prompt).__name__}")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(prompt[error.start])
            raise PromptError(
                f"the prompt contains half a character (the surrogate U+{code:04X}) at position "
                f"{error.start}; pass valid Unicode"
            ) from error
        prompt = drop_prefix(prompt, images)
        length = len(prompt.encode("utf-8"))
        limit = max_tokens * self.max_token_bytes
        if length > limit:
            raise PromptError(
                f"the prompt is {length} bytes long and cannot fit: {max_tokens} tokens are left for it, "
                f"at most {limit} bytes; shorten it"
            )
        text_ids = self.library.encode(prompt + NEWLINE, add_special_tokens=False).ids
        ids = (self.bos_id, *text_ids)
        control_id = next((token_id for token_id in text_ids if token_id in self.control_ids), None)
        if control_id is not None:
            raise PromptError(
                f"the prompt contains the control token {self.library.id_to_token(control_id)}; remove it "
                f"({IMAGE}, once per image, and {BOS} are accepted at the beginning, where they are dropped)"
            )
        if len(ids) > max_tokens:
            raise PromptError(
                f"the prompt is {len(ids)} tokens long, {BOS} and newline included, but {max_tokens} are "
                "left for it; shorten it"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids: all pieces of a `Detokenizer`, joined."""
        detokenizer = Detokenizer(self)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])


class Detokenizer:
    """Converts the ids of an answer to text, id by id, in pieces of whole characters.

    Like Gemma's decoder, it converts each token separately, except for byte tokens. The bytes of a character
    that is encoded in byte tokens are held back until the character is complete. Each maximal part of an
    invalid UTF-8 character becomes one U+FFFD, as the Unicode Standard recommends (section 3.9). The
    `tokenizers` library instead writes one U+FFFD per byte, and also replaces the valid characters next to
    the invalid bytes. Ids without a token have no text; special tokens have text only on request.
    """

    def __init__(self, tokenizer: PromptTokenizer, *, special_tokens: bool = False) -> None:
        """Start an answer. If `special_tokens` is true, the text of special tokens is included."""
        self._tokenizer = tokenizer
        self._hidden: Set[int] = frozenset() if special_tokens else tokenizer.special_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes. The text may be empty."""
        tokenizer = self._tokenizer
        if token_id in self._hidden or tokenizer.library.id_to_token(token_id) is None:
            return ""
        byte = tokenizer.byte_values.get(token_id)
        if byte is not None:
            return self._utf8.decode(bytes([byte]))
        text: str = tokenizer.library.decode([token_id], skip_special_tokens=False)
        return self.finish() + text

    def finish(self) -> str:
        """Return U+FFFD if the last character is incomplete, otherwise an empty text."""
        return self._utf8.decode(b"", final=True)

"""A tokenizer with as many pieces as the published one, so that loading it takes as long."""

from __future__ import annotations

import string
from itertools import islice, product

from tokenizers import Tokenizer

from training.tokenizer import PRINTABLE, SPACE, assemble_tokenizer

from .sizes import LOCATIONS, SEGMENTS

_LETTERS = string.ascii_letters
# The letters first, so that words are split into pieces of two and three letters.
_CHARACTERS = (*_LETTERS, *(char for char in PRINTABLE if char not in _LETTERS))


def build_vocabulary(pieces: int, *, adds_bos: bool) -> Tokenizer:
    """Build a tokenizer whose merges are pairs of characters and, once these are used up, triples.

    Args:
        pieces: number of tokens with ids below `<loc0000>`.
        adds_bos: whether it puts BOS before a text.

    Raises:
        ValueError: `pieces` is smaller than the bytes and characters alone, or larger than the triples allow.
    """
    characters = (SPACE, *_CHARACTERS)
    fixed = assemble_tokenizer(characters, [], 0, 0).get_vocab_size() - 1  # without `<image>`, the last id
    pairs = [(first, second) for first, second in product(_CHARACTERS, repeat=2)]
    triples = (("".join(pair), char) for pair, char in product(pairs, _CHARACTERS))
    merges = [*pairs, *islice(triples, max(0, pieces - fixed - len(pairs)))][: max(0, pieces - fixed)]
    if fixed + len(merges) != pieces:
        raise ValueError(
            f"cannot build {pieces} pieces: {fixed} up to all triples of characters are possible"
        )
    return assemble_tokenizer(characters, merges, LOCATIONS, SEGMENTS, adds_bos=adds_bos)

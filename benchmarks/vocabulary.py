"""Build a tokenizer with as many pieces as the published tokenizer, so that loading it takes as long."""

from __future__ import annotations

import string
from itertools import islice, product

from tokenizers import Tokenizer

from training.tokenizer import PRINTABLE, SPACE, assemble_tokenizer

from .sizes import LOCATIONS, SEGMENTS

_LETTERS = string.ascii_letters
# The letters come first, so that the tokenizer splits words into pieces of two and three letters.
_CHARACTERS = (*_LETTERS, *(char for char in PRINTABLE if char not in _LETTERS))


def build_vocabulary(pieces: int, *, adds_bos: bool) -> Tokenizer:
    """Return a tokenizer whose pieces are bytes, characters, pairs of characters, and triples of characters.

    Triples are used only if all pairs are used.

    Args:
        pieces: number of tokens with ids below `<loc0000>`.
        adds_bos: whether the tokenizer puts BOS before a text.

    Raises:
        ValueError: there are more bytes and characters than `pieces`, or `pieces` exceeds the number of all
            bytes, characters, pairs and triples.
    """
    characters = (SPACE, *_CHARACTERS)
    fixed = assemble_tokenizer(characters, [], 0, 0).get_vocab_size() - 1  # without `<image>`, the last id
    pairs = [(first, second) for first, second in product(_CHARACTERS, repeat=2)]
    triples = (("".join(pair), char) for pair, char in product(pairs, _CHARACTERS))
    merges = [*pairs, *islice(triples, max(0, pieces - fixed - len(pairs)))][: max(0, pieces - fixed)]
    if fixed + len(merges) != pieces:
        largest = fixed + len(_CHARACTERS) ** 2 + len(_CHARACTERS) ** 3
        raise ValueError(f"cannot build {pieces} pieces; choose a number from {fixed} to {largest}")
    return assemble_tokenizer(characters, merges, LOCATIONS, SEGMENTS, adds_bos=adds_bos)

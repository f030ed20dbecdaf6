"""A tokenizer with as many pieces as the published one has, so that it takes as long to load."""

from __future__ import annotations

import string
from itertools import islice, product

from tokenizers import Tokenizer

from training.tokenizer import PRINTABLE, SPACE, assemble_tokenizer

from .sizes import LOCATIONS, SEGMENTS

_LETTERS = string.ascii_letters
# The letters first, so that words are spelt in pieces of two and three of them.
_CHARACTERS = (*_LETTERS, *(char for char in PRINTABLE if char not in _LETTERS))


def build_vocabulary(pieces: int, *, adds_bos: bool) -> Tokenizer:
    """Build the tokenizer: P pieces, of which all that is left is every pair of characters, then triples.

    Raises:
        ValueError: there are not so many, or no room for the bytes and characters.
    """
    characters = (SPACE, *_CHARACTERS)
    fixed = assemble_tokenizer(characters, [], 0, 0).get_vocab_size() - 1  # `<image>` stands behind
    pairs = [(one, other) for one, other in product(_CHARACTERS, repeat=2)]
    triples = (("".join(pair), char) for pair, char in product(pairs, _CHARACTERS))
    merges = [*pairs, *islice(triples, max(0, pieces - fixed - len(pairs)))][: max(0, pieces - fixed)]
    if fixed + len(merges) != pieces:
        raise ValueError(f"{pieces} pieces cannot be made, from {fixed} up to triples of characters")
    return assemble_tokenizer(characters, merges, LOCATIONS, SEGMENTS, adds_bos=adds_bos)

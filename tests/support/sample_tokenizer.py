"""A small tokenizer with the structure of PaliGemma's, whose merges are learned from the text below."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers import Tokenizer

from training.tokenizer import PRINTABLE, SPACE, assemble_tokenizer, fixed_pieces

# Prompts and answers of the kinds PaliGemma is trained on, and a few multi-byte characters.
_TEXT = """
caption en describe en answer en detect segment ocr what is in the picture? what colour is the circle?
a red circle above a blue square on a white background. a small green triangle to the left of a large
yellow star. two black squares below an orange circle. three purple triangles and four pink stars. there
is nothing in the image. how many shapes are there? one two three four five six seven eight nine ten.
the large shape is on the right, the small one is in the centre. is there a circle in the image? yes, no.
where is the square? top left, top right, bottom left, bottom right, middle. grey brown cyan magenta.
a cat sitting on a table next to a window. a dog running across a field of grass with a ball in its mouth.
a man and a woman walking down the street in front of a building. people standing at the beach near water.
a car parked beside a road with trees in the background. a plate of food with a cup of coffee and bread.
answer en which one is larger? the circle is larger than the square. answer de, caption fr, caption es.
detect circle ; square ; triangle. segment the red shape. a photo of a bird on a branch under a blue sky.
um círculo vermelho, ein grüner Kreis, un triángulo, une étoile à gauche, größer, naïve, señor, 猫 犬 кот.
"""


def build_sample_tokenizer(
    pieces: int = 600, locations: int = 1024, segments: int = 128, *, adds_bos: bool = False
) -> Tokenizer:
    """Build the tokenizer; its ids are the text pieces, then `<loc>`, `<seg>` and `<image>` tokens.

    Args:
        pieces: number of text pieces, including control tokens, bytes and characters.
        locations: number of `<loc>` tokens; PaliGemma has 1024.
        segments: number of `<seg>` tokens; PaliGemma has 128.
        adds_bos: add PaliGemma 1's post-processor, which puts BOS before every text; PaliGemma 2 has none.

    Raises:
        ValueError: `pieces` is below the number of fixed pieces, or the text is too short to learn as many.
    """
    words = [SPACE + word for word in _TEXT.split()]
    characters = sorted({*PRINTABLE, *"".join(words)})
    fixed = len(fixed_pieces(characters))
    merges = _learn_merges(words, pieces - fixed)
    if fixed + len(merges) != pieces:
        raise ValueError(f"pieces must be from {fixed} to {fixed + len(merges)}, not {pieces}")
    return assemble_tokenizer(characters, merges, locations, segments, adds_bos=adds_bos)


def _learn_merges(words: list[str], max_merges: int) -> list[tuple[str, str]]:
    """Learn merges, each of the most frequent pair; among equals, of the first one in alphabetical order."""
    split_words = [(list(word), count) for word, count in sorted(Counter(words).items())]
    merges: list[tuple[str, str]] = []
    while len(merges) < max_merges:
        frequencies: Counter[tuple[str, str]] = Counter()
        for parts, count in split_words:
            for pair in pairwise(parts):
                frequencies[pair] += count
        if not frequencies:
            break
        best = min(frequencies, key=lambda pair: (-frequencies[pair], pair))
        merges.append(best)
        split_words = [(_merge(parts, best), count) for parts, count in split_words]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge each occurrence of a pair in the parts of a word, from left to right."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged

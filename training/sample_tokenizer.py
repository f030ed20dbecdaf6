"""A small tokenizer of exactly the structure of PaliGemma's, for small models.

Byte-pair encoding (arXiv 1508.07909) with byte fallback. The sample learns its merges from the text below;
who has merges already assembles a tokenizer with these. Ids follow PaliGemma's order: controls, runs of
newlines and spaces, bytes, ordinary pieces, `<loc>`, `<seg>`, `<image>`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

_CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, as in every Gemma
SPACE = "▁"  # U+2581
_NEWLINES = tuple("\n" * length for length in range(1, 5))  # Gemma has runs of up to 31
_SPACES = tuple(SPACE * length for length in range(2, 5))  # Gemma has runs of up to 31
PRINTABLE = tuple(map(chr, range(ord("!"), ord("~") + 1)))  # ASCII without the space
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Prompts and answers of the kinds PaliGemma is trained on, and a few characters of several bytes.
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
    """Build the tokenizer: P text pieces, L `<loc>`, S `<seg>` and `<image>`, in this order of ids from 0.

    Args:
        pieces: P, controls and bytes included.
        locations: L, `<loc0000>` and following; PaliGemma has 1024.
        segments: S, `<seg000>` and following; PaliGemma has 128.
        adds_bos: with PaliGemma 1's post-processor, which puts BOS before every text; PaliGemma 2 has none.

    Raises:
        ValueError: `pieces` has no room for the bytes and characters, or asks for more than the text teaches.
    """
    words = [SPACE + word for word in _TEXT.split()]
    characters = sorted({*PRINTABLE, *"".join(words)})
    learned = _learn(words, pieces - len(_fixed(characters)))
    if len(_fixed(characters)) + len(learned) != pieces:
        least, most = len(_fixed(characters)), len(_fixed(characters)) + len(learned)
        raise ValueError(f"pieces must be from {least} to {most}, not {pieces}")
    return assemble_tokenizer(characters, learned, locations, segments, adds_bos=adds_bos)


def assemble_tokenizer(
    characters: Sequence[str],
    learned: Sequence[tuple[str, str]],
    locations: int = 1024,
    segments: int = 128,
    *,
    adds_bos: bool = False,
) -> Tokenizer:
    """Build a tokenizer of PaliGemma's structure from its characters and learned merges.

    Args:
        characters: that are pieces of their own, the space's stand-in among them; others are spelt in bytes.
        learned: merges within words, in the order in which they were learned.
        locations: `<loc0000>` and following; PaliGemma has 1024.
        segments: `<seg000>` and following; PaliGemma has 128.
        adds_bos: with PaliGemma 1's post-processor, which puts BOS before every text; PaliGemma 2 has none.
    """
    fixed = _fixed(characters)
    runs = [*_merges_of_runs("\n", len(_NEWLINES)), *_merges_of_runs(SPACE, len(_SPACES) + 1)]
    vocabulary = {piece: index for index, piece in enumerate([*fixed, *map("".join, learned)])}
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary, merges=[*runs, *learned], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([_added(piece, special=True) for piece in _CONTROLS])
    tokenizer.add_tokens([_added(piece) for piece in ("<mask>", *_NEWLINES, *_SPACES)])
    tokenizer.add_tokens([f"<loc{index:04d}>" for index in range(locations)])
    tokenizer.add_tokens([f"<seg{index:03d}>" for index in range(segments)])
    tokenizer.add_special_tokens([_added("<image>", special=True)])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos>:0 $A:0",
            pair="<bos>:0 $A:0 <bos>:1 $B:1",
            special_tokens=[("<bos>", vocabulary["<bos>"])],
        )
    return tokenizer


def _fixed(characters: Sequence[str]) -> list[str]:
    """The pieces in front of the learned ones."""
    return [*_CONTROLS, "<mask>", *_NEWLINES, *_SPACES, *_BYTES, *characters]


def write_sample_tokenizer(
    folder: Path, tokenizer: Tokenizer, *, image_size: int, patch_size: int = 14
) -> None:
    """Write the tokenizer and the image settings as a checkpoint has them, for transformers to read.

    Args:
        folder: where they go; it exists. tokenizer.json, tokenizer_config.json, special_tokens_map.json,
            preprocessor_config.json.
        tokenizer: what `build_sample_tokenizer` gave.
        image_size: pixels, both ways.
        patch_size: pixels, both ways.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    _write_json(folder / "special_tokens_map.json", special | {"additional_special_tokens": ["<image>"]})
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "additional_special_tokens": ["<image>"],
            "add_bos_token": tokenizer.post_processor is not None,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "processor_class": "PaliGemmaProcessor",
            "tokenizer_class": "GemmaTokenizer",
        },
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_seq_length": (image_size // patch_size) ** 2,
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "PaliGemmaProcessor",
            "resample": 3,  # PIL's bicubic
            "rescale_factor": 1 / 255,
            "size": {"height": image_size, "width": image_size},
        },
    )


def _learn(words: list[str], count: int) -> list[tuple[str, str]]:
    """Up to `count` merges, each of the most frequent pair, the first in the alphabet among equals."""
    spelt = [(list(word), times) for word, times in sorted(Counter(words).items())]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, times in spelt:
            for pair in pairwise(parts):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = [(_merged(parts, best), times) for parts, times in spelt]
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The parts of a word, with each occurrence of the pair made one, from the left."""
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def _merges_of_runs(character: str, longest: int) -> list[tuple[str, str]]:
    """Merges that build runs of up to `longest` equal characters from any two shorter ones, longest last."""
    return [
        (character * left, character * (length - left))
        for length in range(2, longest + 1)
        for left in range(1, length)
    ]


def _added(piece: str, *, special: bool = False) -> AddedToken:
    """An added token that is found in the text as typed, before spaces are replaced."""
    return AddedToken(piece, normalized=False, special=special)


def _write_json(path: Path, value: dict[str, object]) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

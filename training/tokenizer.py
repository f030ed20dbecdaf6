"""Training and assembly of byte-pair-encoding tokenizers (arXiv 1508.07909) with PaliGemma's structure.

Ids follow PaliGemma's order: control tokens, runs of newlines and of spaces, bytes, characters, learned
pieces, `<loc>`, `<seg>`, `<image>`. Characters without an id are encoded as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from .scenes import Scene
from .tasks import QUESTIONS, make_caption, make_description, make_example

SPACE = "▁"  # U+2581, which replaces the space in pieces
PRINTABLE = tuple(map(chr, range(ord("!"), ord("~") + 1)))  # ASCII without the space
_CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, as in every Gemma tokenizer
_NEWLINES = tuple("\n" * length for length in range(1, 5))  # Gemma has runs of up to 31
_SPACES = tuple(SPACE * length for length in range(2, 5))  # Gemma has runs of up to 31
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

MAX_MERGES = 360  # enough that every word of the tasks becomes one piece
MIN_FREQUENCY = 2  # occurrences from which a pair is merged
MARKS = ",?"  # never merged with other characters


def train_tokenizer(scenes: Sequence[Scene]) -> Tokenizer:
    """Learn merges from prompts and answers of all kinds and build a tokenizer of PaliGemma 1's structure."""
    characters = sorted({SPACE, *PRINTABLE})
    learner = Tokenizer(BPE())
    # A merge crosses neither a space nor a mark, so a word has the same pieces wherever it occurs.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            *(pre_tokenizers.Split(mark, "isolated") for mark in MARKS),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=len(characters) + MAX_MERGES,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=characters,
        show_progress=False,
    )
    learner.train_from_iterator((text.replace(" ", SPACE) for text in _training_texts(scenes)), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    # Digits are not merged, so that the model reads a number digit by digit.
    merges = [(left, right) for left, right in merges if not (left + right).strip(SPACE).isdigit()]
    return assemble_tokenizer(characters, merges, adds_bos=True)


def _training_texts(scenes: Sequence[Scene]) -> Iterator[str]:
    rng = np.random.RandomState(0)
    for scene in scenes:
        yield from ("caption en", make_caption(scene), "segment", make_description(scene))
        for kind in (*QUESTIONS, "detect"):
            example = make_example(scene, kind, rng)
            if example is not None:
                yield example.prompt
                yield example.suffix if kind != "detect" else " ".join(example.prompt.split()[1:])


def assemble_tokenizer(
    characters: Sequence[str],
    merges: Sequence[tuple[str, str]],
    locations: int = 1024,
    segments: int = 128,
    *,
    adds_bos: bool = False,
) -> Tokenizer:
    """Build a tokenizer of PaliGemma's structure from its characters and merges.

    Args:
        characters: single-character pieces, including SPACE.
        merges: merges within words, in the order in which they were learned.
        locations: number of `<loc>` tokens; PaliGemma has 1024.
        segments: number of `<seg>` tokens; PaliGemma has 128.
        adds_bos: add PaliGemma 1's post-processor, which puts BOS before every text; PaliGemma 2 has none.
    """
    pieces = [*fixed_pieces(characters), *map("".join, merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    runs = [*_run_merges("\n", len(_NEWLINES)), *_run_merges(SPACE, len(_SPACES) + 1)]
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary, merges=[*runs, *merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([_added_token(token, special=True) for token in _CONTROLS])
    tokenizer.add_tokens([_added_token(token) for token in ("<mask>", *_NEWLINES, *_SPACES)])
    tokenizer.add_tokens([f"<loc{index:04d}>" for index in range(locations)])
    tokenizer.add_tokens([f"<seg{index:03d}>" for index in range(segments)])
    tokenizer.add_special_tokens([_added_token("<image>", special=True)])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos>:0 $A:0",
            pair="<bos>:0 $A:0 <bos>:1 $B:1",
            special_tokens=[("<bos>", vocabulary["<bos>"])],
        )
    return tokenizer


def fixed_pieces(characters: Sequence[str]) -> list[str]:
    """Return the pieces with ids before the learned ones, in the order of their ids."""
    return [*_CONTROLS, "<mask>", *_NEWLINES, *_SPACES, *_BYTES, *characters]


def _run_merges(character: str, max_length: int) -> list[tuple[str, str]]:
    """Return merges that build runs of up to `max_length` equal characters from any two shorter runs."""
    return [
        (character * left, character * (length - left))
        for length in range(2, max_length + 1)
        for left in range(1, length)
    ]


def _added_token(text: str, *, special: bool = False) -> AddedToken:
    """Return an added token that is matched in the input before spaces are replaced."""
    return AddedToken(text, normalized=False, special=special)

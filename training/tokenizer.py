"""The shipped model's tokenizer: byte-pair encoding learned from what is asked and answered about scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from .sample_tokenizer import PRINTABLE, SPACE, assemble_tokenizer
from .scenes import Scene
from .tasks import QUESTIONS, caption, description, example

MOST_MERGES = 360  # enough for every word of the task to become one piece
MARKS = ",?"  # stay pieces of their own
SEEN_TWICE = 2  # occurrences below which a pair is not merged


def train_tokenizer(scenes: Sequence[Scene]) -> Tokenizer:
    """Learn merges from every kind of text about the scenes, and build PaliGemma 1's structure with them."""
    characters = sorted({SPACE, *PRINTABLE})
    learner = Tokenizer(BPE())
    # A merge reaches neither over a space nor to a mark: a word is a piece wherever it stands.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            *(pre_tokenizers.Split(mark, "isolated") for mark in MARKS),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=len(characters) + MOST_MERGES,
        min_frequency=SEEN_TWICE,
        initial_alphabet=characters,
        show_progress=False,
    )
    learner.train_from_iterator((text.replace(" ", SPACE) for text in _texts(scenes)), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    # Digits stay apart, so that a number is read digit by digit.
    learned = [(left, right) for left, right in merges if not (left + right).strip(SPACE).isdigit()]
    return assemble_tokenizer(characters, learned, adds_bos=True)


def _texts(scenes: Iterable[Scene]) -> Iterator[str]:
    rng = np.random.RandomState(0)
    for scene in scenes:
        yield from ("caption en", caption(scene), "segment", description(scene))
        for kind in (*QUESTIONS, "detect"):
            found = example(scene, kind, rng)
            if found is not None:
                yield found.prompt
                yield found.suffix if kind != "detect" else " ".join(found.prompt.split()[1:])

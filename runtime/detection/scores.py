"""Scores of objects, computed from the probabilities of the tokens that describe them.

The scores are the model's own probabilities. They rank objects; they are not calibrated
(docs/detection-scores.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..generation.constraints import LOCATIONS_PER_BOX
from ..generation.types import Generation
from ..text.tokenizer import Detokenizer, PromptTokenizer
from .parsing import ParsedObject


@dataclass(frozen=True)
class ObjectScore:
    """The model's probabilities (0 to 1) of the box and the label of an object that it wrote.

    Attributes:
        box: geometric mean over the four edges of the probability of a location within 20 / 1,024 of the
            image's side, given the tokens before it.
        label: probability of the tokens of the label, given the tokens before them.
    """

    box: float
    label: float

    @property
    def product(self) -> float:
        """The score that ranks objects, the box score times the label score."""
        return self.box * self.label


def answer_text(generation: Generation, tokenizer: PromptTokenizer) -> tuple[str, list[int]]:
    """Return the text of an answer without special tokens, and the position at which each token begins."""
    detokenizer, text, starts = Detokenizer(tokenizer), "", list[int]()
    for token_id in generation.token_ids:
        starts.append(len(text))
        text += detokenizer.push(token_id)
    return text + detokenizer.finish(), starts


def score_object(parsed: ParsedObject, generation: Generation, starts: Sequence[int]) -> ObjectScore | None:
    """Return the score of an object, or None if the generation has no probabilities.

    Args:
        parsed: the object.
        generation: the answer that contains the object.
        starts: position in the answer's text at which each token begins.
    """
    if generation.logprobs is None or generation.location_probs is None:
        return None
    tokens = list(zip(starts, generation.logprobs, generation.location_probs, strict=True))
    box_start, box_end, label_start, label_end = parsed.positions
    edges = [prob for start, _, prob in tokens if box_start <= start < box_end and prob is not None]
    label = [logprob for start, logprob, _ in tokens if label_start <= start < label_end]
    if len(edges) != LOCATIONS_PER_BOX:  # a text of several tokens that reads like a location
        return ObjectScore(0.0, math.exp(math.fsum(label)))
    return ObjectScore(math.prod(edges) ** (1 / LOCATIONS_PER_BOX), math.exp(math.fsum(label)))

"""Comparison of an answer with the expected answer, the column `suffix` of fine-tuning data.

Both texts are stripped of white space at their ends and compared without any other normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import starmap
from operator import eq

from ..text.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Score:
    """Agreement of an answer with the expected answer."""

    exact_match: bool
    token_accuracy: float  # 0 to 1


def score_answer(answer: str, suffix: str, tokenizer: PromptTokenizer) -> Score:
    """Compare an answer with the expected answer `suffix`.

    The token accuracy is the number of positions at which the tokens of both texts agree, divided by the
    number of tokens of the longer text; it is 1 if both texts are empty. Both texts must be valid Unicode.
    """
    texts = answer.strip(), suffix.strip()
    ids = [tokenizer.library.encode(text, add_special_tokens=False).ids for text in texts]
    longest = max(map(len, ids))
    accuracy = sum(starmap(eq, zip(*ids, strict=False))) / longest if longest else 1.0
    return Score(texts[0] == texts[1], accuracy)

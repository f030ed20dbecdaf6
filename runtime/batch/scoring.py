"""Comparison of an answer with the expected answer, the column `suffix` of fine-tuning data.

Both texts are stripped of white space at their ends and compared without any other normalisation. The text of
the answer includes special tokens, since a fine-tune may have been trained to write its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import eq

from ..text.tokenizer import Detokenizer, PromptTokenizer


@dataclass(frozen=True)
class Score:
    """Agreement of an answer with the expected answer."""

    exact_match: bool
    token_accuracy: float  # 0 to 1


def score_answer(token_ids: Sequence[int], suffix: str, tokenizer: PromptTokenizer) -> Score:
    """Compare an answer with the expected answer.

    The token accuracy is the number of positions at which the tokens of both texts agree, divided by the
    number of tokens of the longer text; it is 1 if both texts are empty.

    Args:
        token_ids: the answer, without the stop id. Its text is tokenised again, as a text can have several
            sequences of tokens.
        suffix: the expected answer, valid Unicode.
        tokenizer: the bundle's tokenizer.
    """
    detokenizer = Detokenizer(tokenizer, special_tokens=True)
    answer = "".join([*map(detokenizer.push, token_ids), detokenizer.finish()])
    texts = answer.strip(), suffix.strip()
    ids = [tokenizer.library.encode(text, add_special_tokens=False).ids for text in texts]
    longest = max(map(len, ids))
    accuracy = sum(starmap(eq, zip(*ids, strict=False))) / longest if longest else 1.0
    return Score(texts[0] == texts[1], accuracy)

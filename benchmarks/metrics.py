"""The figures of one round, by name; the same names whoever is measured.

Imports the standard library only: processes of other environments use it, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paligemma_onnx.runtime.diagnostics.benchmark import Cost

# Eight tokens with the tokenizer of vocabulary.py, BOS and newline among them: with 256 image tokens, 264.
PROMPT = "detect cat"
Figures = dict[str, float]


def figures_of(cost: Cost) -> Figures:
    """What one request says."""
    size = cost.images
    found = {
        f"step_s_{size}": cost.token_s,
        f"tokens_per_minute_{size}": cost.tokens_per_minute,
        f"images_per_minute_{size}": cost.images_per_minute,
    }
    if size == 1:
        found |= {
            "vision_s": cost.vision_s,
            "prefill_s": cost.prefill_s,
            "time_to_first_token_s": cost.time_to_first_token_s,
        }
    return found


def step_at_past(slots: int) -> str:
    """Name of the seconds of a decode step behind so many slots of cache."""
    return f"step_s_past_{slots}"


def prefill_of(tokens: int) -> str:
    """Name of the seconds of a prefill of so many tokens, where lengths are told apart."""
    return f"prefill_s_{tokens}"

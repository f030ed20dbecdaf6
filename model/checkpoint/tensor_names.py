"""One name for each tensor, whichever layout the file was written in.

Three layouts are in use, and differ only in prefixes:

    published files        language_model.model.*   vision_tower.vision_model.*   multi_modal_projector.*
    transformers, memory   model.language_model.*   model.vision_tower.*   model.multi_modal_projector.*
    transformers 5, saved  language_model.model.*   vision_tower.*         multi_modal_projector.*

The canonical name is the second without `model.`, which is the name of the parameter in paligemma.py.
"""

from __future__ import annotations

EMBEDDING = "language_model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"  # no parameter of the model: the head is the embedding table

_PREFIXES = (
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "vision_tower."),
)


def canonical_name(stored: str) -> str:
    """The canonical name of a tensor or a module path; what belongs to no layout stays recognisable."""
    name = stored.removeprefix("model.")
    for prefix, replacement in _PREFIXES:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name

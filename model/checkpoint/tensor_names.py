"""Canonical tensor names, which do not depend on the layout of a checkpoint file.

Three layouts are in use. Their names differ only in the prefixes:

    published files          language_model.model.*   vision_tower.vision_model.*   multi_modal_projector.*
    transformers, in memory  model.language_model.*   model.vision_tower.*   model.multi_modal_projector.*
    transformers 5, saved    language_model.model.*   vision_tower.*         multi_modal_projector.*

The canonical name is the name of the second layout without its first `model.`. The parameter in paligemma.py
has the same name.
"""

from __future__ import annotations

EMBEDDING = "language_model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"  # not a parameter of the model, whose output head is the embedding

_PREFIXES = (
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "vision_tower."),
)


def canonical_name(stored: str) -> str:
    """Return the canonical name of a tensor or module path.

    From an unknown name only a leading `model.` is removed.
    """
    name = stored.removeprefix("model.")
    for prefix, replacement in _PREFIXES:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name

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
LM_HEAD = "language_model.lm_head.weight"  # a parameter only if the output head differs from the embedding

_LINEAR = {
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("out_proj", "fc1", "fc2", "linear"),
}
# Buffers that some releases of transformers save: rotary frequencies and position numbers.
_BUFFERS = {"inv_freq", "original_inv_freq", "position_ids"}
_POOLING_HEAD = "vision_tower.head."  # PaliGemma takes the features before it
_MODULES = ("language_model.", "vision_tower.", "multi_modal_projector.")

_PREFIXES = (
    ("language_model.model.", "language_model."),
    ("lm_head.", "language_model.lm_head."),
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


def is_linear(name: str) -> bool:
    """Return whether a canonical name is that of a linear layer's weight, in a tower or the projector."""
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and module.rpartition(".")[2] in _LINEAR


def is_unused(name: str) -> bool:
    """Return whether the model's results do not depend on the tensor of this canonical name.

    transformers ignores such a tensor: a buffer that follows from the configuration, SigLIP's pooling head,
    or a part that is outside the model (the heads and experts of models that contain a PaliGemma).
    """
    return (
        name.rpartition(".")[2] in _BUFFERS or name.startswith(_POOLING_HEAD) or not name.startswith(_MODULES)
    )

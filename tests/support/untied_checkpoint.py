"""Checkpoints with `"tie_word_embeddings": false`, which store the output head."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from checkpoints import CASES, make_model, write_checkpoint
from transformers import PaliGemmaForConditionalGeneration


def write_untied_checkpoint(case: str, folder: Path, *, equal: bool = False) -> Any:
    """Save and return a model of transformers whose output head is random, or equal to the embedding."""
    write_checkpoint(CASES[case], folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    tied = make_model(CASES[case])
    config = copy.deepcopy(tied.config)
    config.tie_word_embeddings = False
    model = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.load_state_dict(tied.state_dict(), strict=True)
    if not equal:
        torch.nn.init.normal_(model.lm_head.weight, std=0.1, generator=torch.Generator().manual_seed(3))
    model.eval().requires_grad_(False).save_pretrained(folder)
    return model

"""transformers' PaliGemma and this project's model with the same random float32 weights."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from checkpoints import CASES, make_model

from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.model.paligemma import PaliGemma


@dataclass(frozen=True)
class PairedModels:
    """Two implementations with equal weights."""

    reference: Any  # transformers.PaliGemmaForConditionalGeneration, eager attention
    model: PaliGemma


@cache
def paired_models(name: str) -> PairedModels:
    """Return both models of a case in checkpoints.py; tests share them and must not change them."""
    reference = make_model(CASES[name]).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        reference.config.save_pretrained(folder)
        config = read_config(Path(folder))
    model = PaliGemma(config).eval().requires_grad_(False)
    weights = {key.removeprefix("model."): weight for key, weight in reference.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embedding
    model.load_state_dict(weights, strict=True)
    return PairedModels(reference, model)

"""One set of random float32 weights in transformers' model and in ours."""

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
class Twins:
    """The same weights twice."""

    theirs: Any  # transformers.PaliGemmaForConditionalGeneration, eager attention
    ours: PaliGemma


@cache
def twins(name: str) -> Twins:
    """The twins of a case in checkpoints.py; read only."""
    theirs = make_model(CASES[name]).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        theirs.config.save_pretrained(folder)
        config = read_config(Path(folder))
    ours = PaliGemma(config).eval().requires_grad_(False)
    weights = {key.removeprefix("model."): weight for key, weight in theirs.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embedding
    ours.load_state_dict(weights, strict=True)
    return Twins(theirs, ours)

"""A checkpoint folder becomes a model whose weights stay in the file until they are used."""

from __future__ import annotations

from pathlib import Path

from ..config import PaliGemmaConfig
from ..paligemma import PaliGemma
from ..rotary import inverse_frequencies
from ..skeleton import meta_model
from .checkpoint import Checkpoint
from .config_json import read_config


def open_checkpoint(folder: Path, adapter: Path | None = None) -> tuple[PaliGemmaConfig, Checkpoint]:
    """Read the configuration and open the weights it promises; raises CheckpointError."""
    config = read_config(folder)
    expected = {name: tuple(weight.shape) for name, weight in meta_model(config).named_parameters()}
    # From `<image>` on, rows of the table are never a word.
    return config, Checkpoint.open(folder, expected, adapter, trained_rows=config.image_token_index)


def load_model(config: PaliGemmaConfig, checkpoint: Checkpoint) -> PaliGemma:
    """The model with its weights mapped from the checkpoint in the dtype they are stored in.

    Arithmetic follows the dtype of the inputs (linear.py), so a bfloat16 checkpoint given float32 pixels
    computes in float32 and occupies no memory of its own but the system's file cache. Weights that an
    adapter changes are merged here, and do.
    """
    model = meta_model(config)
    weights = {name: checkpoint.tensor(name) for name, _ in model.named_parameters()}
    model.load_state_dict(weights, strict=True, assign=True)
    text = config.text_config
    model.language_model.frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    return model.requires_grad_(False)

"""Loading of a checkpoint folder as a model. Weights stay in the file until the model uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from ..config import PaliGemmaConfig
from ..linear import Linear, stream_weight
from ..paligemma import PaliGemma
from ..rotary import inverse_frequencies
from ..skeleton import meta_model
from .adapter import WeightedAdapter
from .checkpoint import Checkpoint
from .config_json import CONFIG, find_unused_settings, read_config


def open_checkpoint(
    folder: Path, adapters: Sequence[WeightedAdapter] = ()
) -> tuple[PaliGemmaConfig, Checkpoint]:
    """Return the configuration of a checkpoint folder, and its weights as an open Checkpoint.

    The configuration is that of the adapted model: adapters may change embedding and output head differently.

    Raises:
        CheckpointError: the folder is not a complete checkpoint of an implemented model.
    """
    config = read_config(folder)
    expected = {name: tuple(weight.shape) for name, weight in meta_model(config).named_parameters()}
    # The row of `<image>` and the rows after it do not stand for tokens of a text.
    checkpoint = Checkpoint.open(folder, expected, adapters, trained_rows=config.image_token_index)
    notes = (*find_unused_settings(folder / CONFIG), *checkpoint.notes)
    return adapted_config(config, checkpoint), replace(checkpoint, notes=notes)


def adapted_config(config: PaliGemmaConfig, checkpoint: Checkpoint) -> PaliGemmaConfig:
    """Return the configuration of the adapted model; `config` is that of the stored model."""
    text = replace(config.text_config, tied_head=checkpoint.has_tied_head)
    return replace(config, text_config=text)


def load_model(config: PaliGemmaConfig, checkpoint: Checkpoint) -> PaliGemma:
    """Return the model with its weights mapped from the checkpoint in their stored dtype.

    The model computes in the dtype of its inputs (linear.py). The model of a bfloat16 checkpoint therefore
    computes in float32 if the pixels are float32, and the weights occupy only the system's file cache.

    A linear layer whose weight cannot be mapped, or is changed by an adapter, loads or computes the weight at
    each call and frees it afterwards. Then memory holds the embedding and the weights of one layer.
    """
    model = meta_model(config)
    weights = dict[str, Tensor](model.named_parameters())  # the parameters on the meta device stay there
    streamed = set[str]()
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, Linear) and not checkpoint.is_mapped(weight):
            stream_weight(module, partial(checkpoint.tensor, weight))
            streamed.add(weight)
    weights |= {name: checkpoint.tensor(name) for name in weights.keys() - streamed}
    model.load_state_dict(weights, strict=True, assign=True)
    text = config.text_config
    model.language_model.frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    return model.requires_grad_(False)

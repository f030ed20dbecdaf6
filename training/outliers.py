"""Checkpoints with outliers: a few channels with large activations that do not change the model's function.

python -m training.outliers OUTPUT

Export OUTPUT in some precision and score it with training.evaluate to measure how outliers affect
quantization.
"""

from __future__ import annotations

import shutil
from collections.abc import MutableMapping
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model

from .published_layout import published_name

OUTLIER_SHARE = 0.01  # share of the channels that become outliers
OUTLIER_FACTOR = 64.0  # a power of two, so that scaling a matrix is exact
WEIGHTS = "model.safetensors"


def inject_outliers(tensors: MutableMapping[str, Tensor], config: PaliGemmaConfig, seed: int = 1) -> None:
    """Scale some channels of every kind up where they are computed and down where they are read.

    Columns of matrices are divided by OUTLIER_FACTOR, and the parameters before them are multiplied by it:
    norm gains, rows of the value projection and, in the decoder, rows of the MLP's up projection. The hidden
    channels of the vision tower's MLP stay unchanged, because a nonlinearity lies between its two matrices.

    Args:
        tensors: float32 parameters by their names in the model; changed in place.
        config: sizes of the model.
        seed: chooses the channels.
    """
    generator = torch.Generator().manual_seed(seed)
    text, vision = config.text_config, config.vision_config

    def random_factor(width: int) -> Tensor:
        factor = torch.ones(width)
        factor[torch.randperm(width, generator=generator)[: max(1, int(OUTLIER_SHARE * width))]] = (
            OUTLIER_FACTOR
        )
        return factor

    def scale(name: str, factor: Tensor) -> None:
        tensors[name] = tensors[name] * factor

    for index in range(text.num_hidden_layers):
        layer = f"language_model.layers.{index}"
        before_mlp = "pre_feedforward_layernorm" if text.has_post_norms else "post_attention_layernorm"
        for norm, projections in (
            ("input_layernorm", [f"self_attn.{name}_proj" for name in "qkv"]),
            (before_mlp, ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            factor = random_factor(text.hidden_size)
            gain = f"{layer}.{norm}.weight"
            tensors[gain] = (1 + tensors[gain]) * factor - 1
            for projection in projections:
                scale(f"{layer}.{projection}.weight", 1 / factor)
        factor = random_factor(text.num_key_value_heads * text.head_dim)
        scale(f"{layer}.self_attn.v_proj.weight", factor[:, None])
        heads = factor.view(-1, 1, text.head_dim).expand(-1, text.query_groups, -1)
        scale(f"{layer}.self_attn.o_proj.weight", 1 / heads.flatten())
        factor = random_factor(text.intermediate_size)
        scale(f"{layer}.mlp.up_proj.weight", factor[:, None])
        scale(f"{layer}.mlp.down_proj.weight", 1 / factor)
    for index in range(vision.num_hidden_layers):
        layer = f"vision_tower.encoder.layers.{index}"
        for norm, projections in (
            ("layer_norm1", [f"self_attn.{name}_proj" for name in "qkv"]),
            ("layer_norm2", ["mlp.fc1"]),
        ):
            factor = random_factor(vision.hidden_size)
            for kind in ("weight", "bias"):
                scale(f"{layer}.{norm}.{kind}", factor)
            for projection in projections:
                scale(f"{layer}.{projection}.weight", 1 / factor)
        factor = random_factor(vision.hidden_size)
        scale(f"{layer}.self_attn.v_proj.weight", factor[:, None])
        scale(f"{layer}.self_attn.v_proj.bias", factor)
        scale(f"{layer}.self_attn.out_proj.weight", 1 / factor)


def write_with_outliers(checkpoint: Path, output: Path) -> None:
    """Write a copy of a checkpoint with outliers, in float32, which represents every scaled weight.

    Args:
        checkpoint: a checkpoint that fits into memory.
        output: the folder to create.
    """
    config, source = open_checkpoint(checkpoint)
    names = [name for name, _ in meta_model(config).named_parameters()]
    tensors = {name: source.tensor(name).to(torch.float32) for name in names}
    inject_outliers(tensors, config)
    weights = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
    shutil.copytree(checkpoint, output, ignore=weights)
    published = {published_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(published, output / WEIGHTS, metadata={"format": "pt"})


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Checkpoint to copy.  [default: the shipped model]",
)
def main(output: Path, checkpoint: Path | None) -> None:
    """Write a checkpoint to OUTPUT in which 1 % of the channels have activations 64 times as large."""
    if output.exists():
        raise click.UsageError(f"{output}: exists already; choose another OUTPUT")
    if checkpoint is not None:
        write_with_outliers(checkpoint, output)
        return
    with shipped_model() as shipped:
        write_with_outliers(shipped, output)


if __name__ == "__main__":
    main()

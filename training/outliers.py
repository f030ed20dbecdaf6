"""The same model with outliers: a few channels of large activations, which change nothing but rounding.

python -m training.outliers OUTPUT, then export OUTPUT in a precision and score it as any other.
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

SHARE = 0.01  # of the channels
OUTLIER = 64.0  # times; a power of two, so that matrices keep every digit
WEIGHTS = "model.safetensors"


def inject(tensors: MutableMapping[str, Tensor], config: PaliGemmaConfig, seed: int = 1) -> None:
    """Move a factor from columns of matrices to what stands before them, in some channels of every kind.

    What stands before them: norm gains, value rows and, in the decoder, up rows. In the vision tower a
    nonlinearity lies between the two matrices of the MLP.

    Args:
        tensors: parameters by their names in the model, float32; changed.
        config: of the model.
        seed: chooses the channels.
    """
    generator = torch.Generator().manual_seed(seed)
    text, vision = config.text_config, config.vision_config

    def some(width: int) -> Tensor:
        factor = torch.ones(width)
        factor[torch.randperm(width, generator=generator)[: max(1, int(SHARE * width))]] = OUTLIER
        return factor

    def scale(name: str, factor: Tensor) -> None:
        tensors[name] = tensors[name] * factor

    for index in range(text.num_hidden_layers):
        layer = f"language_model.layers.{index}"
        before_mlp = "pre_feedforward_layernorm" if text.has_post_norms else "post_attention_layernorm"
        for norm, readers in (
            ("input_layernorm", [f"self_attn.{name}_proj" for name in "qkv"]),
            (before_mlp, ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            factor = some(text.hidden_size)
            gain = f"{layer}.{norm}.weight"
            tensors[gain] = (1 + tensors[gain]) * factor - 1
            for reader in readers:
                scale(f"{layer}.{reader}.weight", 1 / factor)
        factor = some(text.num_key_value_heads * text.head_dim)
        scale(f"{layer}.self_attn.v_proj.weight", factor[:, None])
        heads = factor.view(-1, 1, text.head_dim).expand(-1, text.query_groups, -1)
        scale(f"{layer}.self_attn.o_proj.weight", 1 / heads.flatten())
        factor = some(text.intermediate_size)
        scale(f"{layer}.mlp.up_proj.weight", factor[:, None])
        scale(f"{layer}.mlp.down_proj.weight", 1 / factor)
    for index in range(vision.num_hidden_layers):
        layer = f"vision_tower.encoder.layers.{index}"
        for norm, readers in (
            ("layer_norm1", [f"self_attn.{name}_proj" for name in "qkv"]),
            ("layer_norm2", ["mlp.fc1"]),
        ):
            factor = some(vision.hidden_size)
            for kind in ("weight", "bias"):
                scale(f"{layer}.{norm}.{kind}", factor)
            for reader in readers:
                scale(f"{layer}.{reader}.weight", 1 / factor)
        factor = some(vision.hidden_size)
        scale(f"{layer}.self_attn.v_proj.weight", factor[:, None])
        scale(f"{layer}.self_attn.v_proj.bias", factor)
        scale(f"{layer}.self_attn.out_proj.weight", 1 / factor)


def write_with_outliers(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint that computes the same with outliers inside; float32, which holds every weight.

    Args:
        checkpoint: small enough to be in memory.
        output: a new folder.
    """
    config, source = open_checkpoint(checkpoint)
    names = [name for name, _ in meta_model(config).named_parameters()]
    tensors = {name: source.tensor(name).to(torch.float32) for name in names}
    inject(tensors, config)
    weights = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
    shutil.copytree(checkpoint, output, ignore=weights)
    renamed = {published_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(renamed, output / WEIGHTS, metadata={"format": "pt"})


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="[default: the shipped model]",
)
def main(output: Path, checkpoint: Path | None) -> None:
    """Write a checkpoint with outliers to OUTPUT: 1 % of the channels are 64 times as large inside."""
    if output.exists():
        raise click.UsageError(f"{output} exists")
    if checkpoint is not None:
        write_with_outliers(checkpoint, output)
        return
    with shipped_model() as shipped:
        write_with_outliers(shipped, output)


if __name__ == "__main__":
    main()

"""The torch model with the weights that a precision's stored codes decode to."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.export.quantization.channel_scaling import INPUT_SCALES
from paligemma_onnx.export.quantization.encodings import decoded
from paligemma_onnx.export.quantization.quantize_graph import embedding_format, weight_format
from paligemma_onnx.export.source import Source
from paligemma_onnx.export.sources.tensor_source import TensorSource
from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.skeleton import meta_model


def dequantized_model(source: Source, precision: str, graph: str) -> PaliGemma:
    """Return the model that a bundle's graph computes if activations are not rounded."""
    recipe = PRECISIONS[precision]
    matrices, stored = weight_format(recipe, graph), source.weights(precision)

    def dequantized(name: str) -> torch.Tensor:
        tensor = stored.tensor(name)
        if name == EMBEDDING:
            return decoded(tensor, embedding_format(recipe.table, tensor.shape[1]))
        is_matrix = tensor.dim() == 2 and "embedding" not in name
        return decoded(tensor, matrices) if is_matrix else tensor

    return build_model(source.config, dequantized, scales=stored)


def build_model(
    config: PaliGemmaConfig, tensor: Callable[[str], torch.Tensor], scales: TensorSource | None = None
) -> PaliGemma:
    """Return the torch model with the given weights.

    Args:
        config: dimensions of the model.
        tensor: returns a weight by its checkpoint name.
        scales: source of the input scales that a bundle's graphs apply before a matrix; here the columns of
            the matrix are multiplied by them, which gives the same product.
    """
    weights = {}
    for name, _ in meta_model(config).named_parameters():
        weights[name] = tensor(name).to(torch.float32)
        if name.endswith(".o_proj.weight") and scales is not None:
            weights[name] = weights[name] * scales.tensor(f"{name.removesuffix('.weight')}.{INPUT_SCALES}")
    model = PaliGemma(config).eval()
    model.load_state_dict(weights, strict=True)
    return model.requires_grad_(False)

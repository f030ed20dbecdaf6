"""The torch model with the numbers that a precision's codes stand for."""

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


def rounded_model(source: Source, precision: str, graph: str) -> PaliGemma:
    """As one graph of a bundle would compute if activations were not rounded."""
    recipe = PRECISIONS[precision]
    matrices, stored = weight_format(recipe, graph), source.weights(precision)

    def rounded(name: str) -> torch.Tensor:
        tensor = stored.tensor(name)
        if name == EMBEDDING:
            return decoded(tensor, embedding_format(recipe.table, tensor.shape[1]))
        is_matrix = tensor.dim() == 2 and "embedding" not in name
        return decoded(tensor, matrices) if is_matrix else tensor

    return model_of(source.config, rounded, scales=stored)


def model_of(
    config: PaliGemmaConfig, tensor: Callable[[str], torch.Tensor], scales: TensorSource | None = None
) -> PaliGemma:
    """The torch model on such weights.

    Args:
        config: the model.
        tensor: a weight by name.
        scales: has what a bundle's graphs multiply the input of a matrix by; here its columns are.
    """
    weights = {}
    for name, _ in meta_model(config).named_parameters():
        weights[name] = tensor(name).to(torch.float32)
        if name.endswith(".o_proj.weight") and scales is not None:
            weights[name] = weights[name] * scales.tensor(f"{name.removesuffix('.weight')}.{INPUT_SCALES}")
    model = PaliGemma(config).eval()
    model.load_state_dict(weights, strict=True)
    return model.requires_grad_(False)

"""The torch model with the weights that a bundle's quantised arrays represent."""

from __future__ import annotations

from collections.abc import Callable

import torch

from paligemma_onnx.export.graphs.packed_weights import PackedCheckpoint
from paligemma_onnx.export.precisions import (
    PRECISIONS,
    BlockQuantized,
    Float32,
    HalfPrecision,
    Int8PerChannel,
    WeightFormat,
)
from paligemma_onnx.export.quantization.channel_scaling import INPUT_SCALES
from paligemma_onnx.export.quantization.encodings import quantize_blocks
from paligemma_onnx.export.quantization.quantize_graph import fit_blocks_to_rows, weight_format
from paligemma_onnx.export.source import Source
from paligemma_onnx.export.sources.tensor_source import TensorSource
from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.skeleton import meta_model


def fake_quantize(tensor: torch.Tensor, format: WeightFormat) -> torch.Tensor:
    """Return the values that a matrix has once stored: float[out, in] -> float32[out, in]."""
    tensor = tensor.to(torch.float32)
    match format:
        case Float32():
            return tensor
        case HalfPrecision(dtype):
            return tensor.to(getattr(torch, dtype)).to(torch.float32)
        case Int8PerChannel():
            scales = tensor.abs().amax(dim=1, keepdim=True) / 127
            scales[scales == 0] = 1.0
            return (tensor / scales).round().clamp(-127, 127) * scales
        case BlockQuantized():
            codes, scales = quantize_blocks(tensor, format)
            return (codes * scales[:, :, None]).flatten(1)[:, : tensor.shape[1]]


def dequantized_model(source: Source, precision_name: str, graph: str) -> PaliGemma:
    """Return the model that one graph of a bundle computes, but without quantised activations.

    Args:
        source: the checkpoint.
        precision_name: a key of PRECISIONS.
        graph: name of the graph in the manifest, which decides the format of the matrices.
    """
    precision = PRECISIONS[precision_name]
    matrices, weights = weight_format(precision, graph), source.weights(precision_name)
    if isinstance(weights, PackedCheckpoint):
        weights = weights.source  # the same numbers, under their names in the checkpoint

    def stored_values(name: str) -> torch.Tensor:
        tensor = weights.tensor(name)
        if name == EMBEDDING:
            return fake_quantize(tensor, fit_blocks_to_rows(precision.embedding, tensor.shape[1]))
        is_matrix = tensor.dim() == 2 and "embedding" not in name
        return fake_quantize(tensor, matrices) if is_matrix else tensor

    return build_model(source.config, stored_values, input_scales=weights)


def build_model(
    config: PaliGemmaConfig,
    tensor: Callable[[str], torch.Tensor],
    input_scales: TensorSource | None = None,
) -> PaliGemma:
    """Return the float32 torch model with the given weights.

    Args:
        config: sizes of the model.
        tensor: returns a weight by name.
        input_scales: provides the factors by which a bundle's graphs multiply the input of a matrix; here
            they multiply the columns of the matrix instead.
    """
    weights = {}
    for name, _ in meta_model(config).named_parameters():
        weights[name] = tensor(name).to(torch.float32)
        if name.endswith(".o_proj.weight") and input_scales is not None:
            scales = input_scales.tensor(f"{name.removesuffix('.weight')}.{INPUT_SCALES}")
            weights[name] = weights[name] * scales
    model = PaliGemma(config).eval()
    model.load_state_dict(weights, strict=True)
    return model.requires_grad_(False)

"""The torch model with the numbers that a precision's codes stand for."""

from __future__ import annotations

import torch

from paligemma_onnx.export.channels import INPUT_SCALES
from paligemma_onnx.export.encodings import decoded
from paligemma_onnx.export.exporter import Source
from paligemma_onnx.export.quantize import table_form
from paligemma_onnx.export.recipes import PRECISIONS, Form
from paligemma_onnx.model.load import load_model, skeleton
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.tensor_names import EMBEDDING


def rounded_model(source: Source, precision: str, graph: str) -> PaliGemma:
    """As one graph of a bundle would compute if activations were not rounded."""
    recipe = PRECISIONS[precision]
    matrices: Form = getattr(recipe, graph)
    stored = source.weights(precision)
    weights = {}
    for name, parameter in skeleton(source.config).named_parameters():
        tensor = stored.tensor(name)
        if name == EMBEDDING:
            tensor = decoded(tensor, table_form(recipe.table, tensor.shape[1]))
        elif parameter.dim() == 2 and "embedding" not in name:
            tensor = decoded(tensor, matrices)
        if name.endswith(".o_proj.weight"):
            tensor = tensor * stored.tensor(f"{name.removesuffix('.weight')}.{INPUT_SCALES}")
        weights[name] = tensor.to(torch.float32)
    model = load_model(source.config, source.checkpoint)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False)

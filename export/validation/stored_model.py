"""The torch model with the weights that a bundle's files hold: what quantised graphs should compute.

Rounding weights to few bits changes what a model computes. In a deep model every layer adds to the change, so
it can be as large as the change that a wrong graph causes. Compared with this model, a graph differs only by
rounded activations.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.cache import Cache
from paligemma_onnx.model.config import PaliGemmaConfig, TextConfig
from paligemma_onnx.model.linear import Linear, TiedEmbedding, stream_weight
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import inverse_frequencies
from paligemma_onnx.model.skeleton import meta_model

from ..graphs.packed_weights import GAIN, PACKED, head_order, packed_rows
from ..graphs.prefix_or_step import count_folded_heads
from ..precisions import BlockQuantized, Int8PerChannel, WeightFormat
from ..quantization.channel_scaling import INPUT_SCALES
from ..quantization.encodings import parse_array_name


@dataclass(frozen=True)
class StoredReference:
    """A `ReferenceModel`, whose steps may have other weights than its prefill, as in `int4`."""

    prefilling: PaliGemma
    stepping: PaliGemma

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encode images: float32[M, 3, S, S] -> float32[M, I, D]."""
        return self.prefilling.encode_image(pixel_values)

    def prefill(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Read prompts: int64[B, T], float32[B, N, D], int64[B] -> float32[B, V], cache of L slots."""
        return self.prefilling.prefill(input_ids, image_features, text_lengths)

    def decode_step(self, input_ids: Tensor, past_lengths: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Add tokens: int64[B, T], int64[B], cache of P slots -> float32[B * T, V], cache of P + T slots."""
        return self.stepping.decode_step(input_ids, past_lengths, past)


@dataclass(frozen=True)
class _StoredMatrix:
    """The arrays of one matrix, mapped from a weight file."""

    format: WeightFormat
    arrays: dict[int, Tensor]  # by their index in `array_layouts`

    def rows(self, index: Tensor | slice, width: int) -> Tensor:
        """Return rows of a matrix [out, in = width]: float32[rows, width]."""
        match self.format:
            case Int8PerChannel():
                return (self.arrays[1][:, index] * self.arrays[0][index]).t()
            case BlockQuantized(bits=bits):
                codes, scales = self.arrays[0][index], self.arrays[1][index]
                if bits == 4:
                    codes = torch.stack([codes & 15, codes >> 4], dim=-1)
                blocks = codes.reshape(*scales.shape, -1).float() - 2 ** (bits - 1)
                values: Tensor = (blocks * scales[..., None]).flatten(1)[:, :width]
                return values
        return self.arrays[0][index].float()


class _StoredTable(nn.Module):
    """A TiedEmbedding that dequantises the rows that it reads."""

    def __init__(self, matrix: _StoredMatrix, vocab_size: int, width: int) -> None:
        super().__init__()
        self.matrix, self.vocab_size, self.width = matrix, vocab_size, width

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of the table with the given ids: int64[B, T] -> dtype[B, T, D]."""
        return self.matrix.rows(ids.flatten(), self.width).view(*ids.shape, -1).to(dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Return the products of x with every row of the table: float[B, D] -> float[B, V]."""
        count = TiedEmbedding.rows_at_once
        slices = (slice(start, start + count) for start in range(0, self.vocab_size, count))
        blocks = (self.matrix.rows(rows, self.width) for rows in slices)
        return torch.cat([F.linear(x, block) for block in blocks], dim=-1)


def load_stored_model(config: PaliGemmaConfig, graphs: Iterable[Path]) -> PaliGemma:
    """Return the float32 model whose weights the graphs read; a matrix is dequantised when it is used.

    Args:
        config: configuration of the model.
        graphs: graph files that read every weight of the model, each in one format. All matrices are
            quantised.
    """
    matrices = _read_matrices(graphs)
    model = meta_model(config)
    weights = dict[str, Tensor](model.named_parameters())  # matrices stay on the meta device
    for name, module in tuple(model.named_modules()):
        weight = f"{name}.weight"
        if isinstance(module, Linear):
            scales = matrices.get(f"{name}.{INPUT_SCALES}")
            matrix, rows, columns = _find_matrix(name, matrices, config.text_config)
            width = module.weight.shape[1]
            stream_weight(module, partial(_load, matrix, width, scales, rows, columns))
        elif isinstance(module, TiedEmbedding):
            table = _StoredTable(matrices[weight], *module.weight.shape)
            model.language_model.add_module(name.rpartition(".")[2], table)
            del weights[weight]
    for name in [name for name in weights if name not in matrices]:  # norms of a packed decoder
        if (gain := matrices.get(name.removesuffix("weight") + GAIN)) is not None:
            weights[name] = gain.arrays[0] - 1
    weights |= {
        name: matrices[name].arrays[0]
        for name in weights
        if name in matrices and not isinstance(matrices[name].format, Int8PerChannel | BlockQuantized)
    }
    model.load_state_dict(weights, strict=True, assign=True)
    text = config.text_config
    model.language_model.frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    return model.requires_grad_(False)


def _find_matrix(
    module: str, matrices: Mapping[str, _StoredMatrix], config: TextConfig
) -> tuple[_StoredMatrix, Tensor | slice, Tensor | slice]:
    """Return the stored matrix with the weight of a linear layer, and the rows and columns of the weight."""
    every, (parent, _, part) = slice(None), module.rpartition(".")
    packed = matrices.get(f"{parent}.{PACKED}.weight")
    if packed is None:
        return matrices[f"{module}.weight"], every, every
    folded = count_folded_heads(config)
    if part == "o_proj":
        return matrices[f"{module}.weight"], every, head_order(config, folded).argsort()
    return packed, packed_rows(config, folded)[part], every


def _load(
    matrix: _StoredMatrix,
    width: int,
    input_scales: _StoredMatrix | None,
    rows: Tensor | slice,
    columns: Tensor | slice,
) -> Tensor:
    """Return rows and columns of a matrix, float32[out, in]; factors of its inputs multiply its columns."""
    values = matrix.rows(rows, width)
    return (values if input_scales is None else values * input_scales.arrays[0])[:, columns]


def _read_matrices(graphs: Iterable[Path]) -> dict[str, _StoredMatrix]:
    """Return the tensors that graphs read from weight files, by their names in the checkpoint."""
    matrices = dict[str, _StoredMatrix]()
    for graph in graphs:
        for name, value in ir.load(graph).graph.initializers.items():
            stored = value.const_value
            if isinstance(stored, ir.ExternalTensor):
                tensor, format, array = parse_array_name(name, stored.dtype)
                matrix = matrices.setdefault(tensor, _StoredMatrix(format, {}))
                file, shape = graph.parent / str(stored.location), tuple(stored.shape.numpy())
                # "c": a private mapping, because torch expects memory that can be written.
                mapped = np.memmap(file, stored.dtype.numpy(), "c", stored.offset or 0, shape)
                matrix.arrays[array] = torch.from_numpy(mapped)
    return matrices

"""Rotary angles as tables, for graphs that other runtimes run.

A graph that computes cosines and sines depends on how exactly a runtime computes them. WGSL, the shader
language of WebGPU, only promises an absolute error of 2^-11. A table holds the cosine and the sine of every
position, so a graph only looks them up.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import Rotation, inverse_frequencies

MODULE = "rotation"  # name of the replaced module in the decoder
PREFIX = f"language_model.{MODULE}."  # first part of the names of the tables in a graph


class RotationTables(nn.Module):
    """A RotationAngles that reads tables; the tables are on the meta device, as for tracing."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        shape = config.max_position_embeddings, config.head_dim // 2
        for name in Rotation._fields:
            self.register_buffer(name, torch.empty(shape, device="meta"))

    def forward(self, positions: Tensor, _frequencies: Tensor) -> Rotation:
        """Look up positions: int64[B, L] -> two of float32[B, 1, L, H/2]."""
        cos, sin = (F.embedding(positions, table)[:, None] for table in self.buffers())
        return Rotation(cos, sin)


def tabulate_rotation(model: PaliGemma) -> None:
    """Make the decoder of a model on the meta device read rotary angles from tables."""
    model.language_model.add_module(MODULE, RotationTables(model.config.text_config))


def rotation_tables(config: TextConfig) -> dict[str, Tensor]:
    """Return the tables, float32[X, H/2], by their names in a graph.

    The angles are those of the model, in float32. Their cosines and sines are computed in float64 and
    rounded, because float32 results differ between processors, and the tables must be equal everywhere.
    """
    positions = torch.arange(config.max_position_embeddings, device="cpu").float()
    angles = (positions[:, None] * inverse_frequencies(config.head_dim, config.rope_theta)).double()
    return {f"{PREFIX}cos": angles.cos().float(), f"{PREFIX}sin": angles.sin().float()}

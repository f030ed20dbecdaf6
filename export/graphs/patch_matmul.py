"""Patch embedding as a matrix product, used by every image encoder graph.

A convolution whose stride equals its kernel size multiplies each patch by a matrix. The matrix product needs
only an operator that other layers need, too. A convolution would need cuDNN, a library of half a gigabyte.

Shapes: docs/notation.md; D is the width of the vision tower.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.siglip import PatchEmbedding


def multiply_patches(model: PaliGemma) -> None:
    """Replace the patch embedding of a model by a `PatchProduct`."""
    embeddings = model.vision_tower.embeddings
    embeddings.add_module("patch_embedding", PatchProduct(embeddings.patch_embedding))


class PatchProduct(nn.Module):
    """A PatchEmbedding that computes a matrix product; it has the same parameters."""

    def __init__(self, embedding: PatchEmbedding) -> None:
        super().__init__()
        self.patch_size, self.weight, self.bias = embedding.patch_size, embedding.weight, embedding.bias

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed patches: float[M, 3, S, S] -> float[M, I, D]; the patches I are in row-major order."""
        side, dtype = self.patch_size, pixel_values.dtype
        covered = pixel_values.shape[2] // side * side  # pixels beyond the last whole patch are ignored
        if covered < pixel_values.shape[2]:
            pixel_values = pixel_values[:, :, :covered, :covered]
        # [M, 3, rows, side, columns, side]
        split = pixel_values.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        patches = split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [M, I, 3 * side * side]
        return F.linear(patches, self.weight.to(dtype).flatten(1), self.bias.to(dtype))

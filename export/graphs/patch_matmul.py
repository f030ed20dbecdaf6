"""The patch embedding as a product, in every graph.

A convolution whose stride is its size multiplies each patch with a matrix. As a product it needs of an engine
what every other layer needs, too: CUDA's provider has convolutions from a library of half a gigabyte.

Legend: B batch, S image side in pixels, I patches, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.siglip import PatchEmbedding


def multiply_patches(model: PaliGemma) -> None:
    """Put PatchProduct in the place of a model's patch embedding."""
    embeddings = model.vision_tower.embeddings
    embeddings.add_module("patch_embedding", PatchProduct(embeddings.patch_embedding))


class PatchProduct(nn.Module):
    """As PatchEmbedding, with its parameters."""

    def __init__(self, embed: PatchEmbedding) -> None:
        super().__init__()
        self.patch_size, self.weight, self.bias = embed.patch_size, embed.weight, embed.bias

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float[B, 3, S, S] -> float[B, I, D], row by row from the top left."""
        side, dtype = self.patch_size, pixel_values.dtype
        whole = pixel_values.shape[2] // side * side  # a rest that makes no patch is not looked at
        if whole < pixel_values.shape[2]:
            pixel_values = pixel_values[:, :, :whole, :whole]
        # [B, 3, rows, side, columns, side]
        cut = pixel_values.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, I, 3 * side * side]
        return F.linear(patches, self.weight.to(dtype).flatten(1), self.bias.to(dtype))

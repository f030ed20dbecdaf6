"""SigLIP's vision tower: an image becomes a sequence of patch vectors (arXiv 2303.15343).

The tower is a plain Vision Transformer (arXiv 2010.11929) without a class token. PaliGemma also leaves out
the pooling head of SigLIP: every patch vector becomes one image token of the language model.

Shapes: docs/notation.md. D, A and H are the sizes of the tower.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import VisionConfig
from .linear import LayerNorm, Linear

COLOUR_CHANNELS = 3  # red, green, blue


class PatchEmbedding(nn.Module):
    """Projection of each patch to a vector, computed by a convolution whose stride equals its kernel size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        side = config.patch_size
        self.weight = nn.Parameter(torch.empty(config.hidden_size, COLOUR_CHANNELS, side, side))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed patches: float[M, 3, S, S] -> float[M, I, D]; the patches I are in row-major order."""
        dtype = pixel_values.dtype
        grid = F.conv2d(pixel_values, self.weight.to(dtype), self.bias.to(dtype), stride=self.patch_size)
        return grid.flatten(2).transpose(1, 2)


class PositionEmbedding(nn.Module):
    """One learned vector for each position of the patch grid."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_patches, config.hidden_size))

    def forward(self, patches: Tensor) -> Tensor:
        """Add the position vectors to patch vectors: float[M, I, D] -> the same shape."""
        return patches + self.weight.to(patches.dtype)


class Embeddings(nn.Module):
    """Patch vectors with their position vectors added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = PositionEmbedding(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed patches and add their positions: float[M, 3, S, S] -> float[M, I, D]."""
        embedded: Tensor = self.position_embedding(self.patch_embedding(pixel_values))
        return embedded


class Attention(nn.Module):
    """Multi-head self-attention; every patch sees every patch (arXiv 1706.03762, section 3.2.2)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.q_proj = Linear(width, width, bias=True)
        self.k_proj = Linear(width, width, bias=True)
        self.v_proj = Linear(width, width, bias=True)
        self.out_proj = Linear(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Let every patch attend to every patch of its image: float[M, I, D] -> the same shape."""
        query = self._split_heads(self.q_proj(x))
        key = self._split_heads(self.k_proj(x))
        value = self._split_heads(self.v_proj(x))
        scores = (query @ key.transpose(2, 3)) * self.head_dim**-0.5  # [M, A, I, I]
        mixed = scores.softmax(dim=-1) @ value  # [M, A, I, H]
        joined: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return joined

    def _split_heads(self, x: Tensor) -> Tensor:
        """Return x with an axis for the heads: [M, I, A * H] -> [M, A, I, H]."""
        return torch.unflatten(x, 2, (self.num_heads, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a tanh-form GELU between them (arXiv 1606.08415, section 2)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to each patch: float[M, I, D] -> the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class EncoderLayer(nn.Module):
    """Attention, then an MLP. Their inputs are normalised; their outputs are added to the residual stream."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: float[M, I, D] -> the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The layers of the tower, applied one after the other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Run all layers: float[M, I, D] -> the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTower(nn.Module):
    """The whole vision tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the patch vectors of images: float[M, 3, S, S] -> float[M, I, D]."""
        patches: Tensor = self.post_layernorm(self.encoder(self.embeddings(pixel_values)))
        return patches

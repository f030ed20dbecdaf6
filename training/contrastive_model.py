"""The contrastive model of stage 1: the vision tower with pooling heads, and a text tower.

As in SigLIP (arXiv 2303.15343, section 3): attention pooling over the patches (arXiv 2106.04560, section
3.3), a bidirectional text transformer whose last position, padding included, represents the text, and a
learned temperature and bias that start at 10 and -10. Only the vision tower is kept after stage 1.

Shapes: docs/notation.md. In addition, `objects` counts the objects of all images, `signs` the images with
printed text, `texts` the distinct texts, `tokens` the tokens per text, and `width` the width of a tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.config import VisionConfig
from paligemma_onnx.model.contrastive import siglip_loss, similarity
from paligemma_onnx.model.linear import LayerNorm, Linear
from paligemma_onnx.model.siglip import MLP, Encoder, VisionTower

from .initialization import initialize_parameter

HEAD_WIDTH = 32  # of the text tower's attention heads
INITIAL_LOG_SCALE, INITIAL_BIAS = math.log(10.0), -10.0  # arXiv 2303.15343, section 3.2


@dataclass(frozen=True)
class ImageBatch:
    """Images with the positions of their objects, and the images that have printed text."""

    pixel_values: Tensor  # float[M, 3, S, S]
    object_images: Tensor  # int64[objects], index of each object's image
    object_patches: Tensor  # float32[objects, I], share of the object's box that lies in each patch
    sign_images: Tensor  # int64[signs], indices of the images with printed text


@dataclass(frozen=True)
class TextBatch:
    """Descriptions of images, phrases for objects and printed texts, each distinct text once."""

    ids: tuple[Tensor, Tensor, Tensor]  # int64[texts, tokens] each
    targets: tuple[Tensor, Tensor, Tensor]  # int64[M], int64[objects], int64[signs]: row of the matching text


@dataclass(frozen=True)
class Comparison:
    """Embeddings to be matched: of images, objects or printed texts on one side and of texts on the other."""

    images: Tensor  # float[images, E]
    texts: Tensor  # float[texts, E]
    targets: Tensor  # int64[images], row of the matching text


class AttentionPool(nn.Module):
    """Attention pooling: one learned query attends to all patches, and an MLP is added to the result."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.probe = nn.Parameter(torch.empty(1, width))
        self.k_proj = Linear(width, width, bias=True)
        self.v_proj = Linear(width, width, bias=True)
        self.out_proj = Linear(width, width, bias=True)
        self.layer_norm = LayerNorm(width, config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, patches: Tensor) -> Tensor:
        """Pool the patches of each image: float[M, I, width] -> float[M, width]."""
        query = self.probe.to(patches.dtype).expand(len(patches), 1, -1)
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x in (query, self.k_proj(patches), self.v_proj(patches))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        pooled = self.out_proj(attended)[:, 0]
        out: Tensor = pooled + self.mlp(self.layer_norm(pooled))
        return out


class TextTower(nn.Module):
    """Bidirectional transformer that embeds a text as one vector."""

    def __init__(self, vocabulary: int, tokens: int, width: int, layers: int, out: int) -> None:
        super().__init__()
        # SigLIP's text layers equal its vision layers, which do not use the image and patch sizes.
        config = VisionConfig(width, 4 * width, layers, width // HEAD_WIDTH, image_size=1, patch_size=1)
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.empty(tokens, width))  # position embedding
        self.encoder = Encoder(config)
        self.final_layer_norm = LayerNorm(width, config.layer_norm_eps)
        self.head = Linear(width, out, bias=True)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed padded texts, with activations of `dtype`: int64[texts, tokens] -> dtype[texts, E]."""
        x = (self.embed_tokens(ids) + self.places).to(dtype)
        last = self.final_layer_norm(self.encoder(x))[:, -1]
        out: Tensor = self.head(last)
        return out


class ContrastiveModel(nn.Module):
    """Vision and text towers, compared three times.

    Each image is compared with descriptions, each of its objects with phrases (as in RegionCLIP, arXiv
    2112.09106, section 3.2), and its printed text, if any, with printed texts.
    """

    def __init__(self, vision: VisionTower, config: VisionConfig, text: TextTower) -> None:
        super().__init__()
        self.vision_tower = vision
        self.whole, self.printed = AttentionPool(config), AttentionPool(config)
        self.object = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.text_tower = text
        self.log_scales = nn.Parameter(torch.full((3,), INITIAL_LOG_SCALE))
        self.biases = nn.Parameter(torch.full((3,), INITIAL_BIAS))
        for part in ("whole", "printed", "object", "text_tower"):
            for name, weight in self.get_submodule(part).named_parameters(part):
                initialize_parameter(name, weight)

    def forward(self, images: ImageBatch, texts: TextBatch) -> list[Comparison]:
        """Return the embeddings of the three comparisons: descriptions, phrases, printed texts."""
        patches = self.vision_tower(images.pixel_values)
        weights = images.object_patches.to(patches.dtype)[:, None]
        objects = self.object((weights @ patches[images.object_images])[:, 0])
        embeddings = (self.whole(patches), objects, self.printed(patches[images.sign_images]))
        text_embeddings = [self.text_tower(ids, patches.dtype) for ids in texts.ids]
        return list(map(Comparison, embeddings, text_embeddings, texts.targets))

    def loss(self, images: ImageBatch, texts: TextBatch, chunk: int | None) -> Tensor:
        """Return the sum of SigLIP's losses of the three comparisons: float32[].

        Args:
            images: a batch of images.
            texts: their texts.
            chunk: texts compared at a time, to limit memory; None compares all texts at once.
        """
        total = torch.zeros(())
        for index, pairs in enumerate(self(images, texts)):
            scale, bias = self.log_scales[index], self.biases[index]
            total = total + siglip_loss(
                pairs.images, pairs.texts, scale, bias, targets=pairs.targets, chunk=chunk
            )
        return total

    @torch.inference_mode()
    def accuracy(self, images: ImageBatch, texts: TextBatch) -> list[float]:
        """Return, for each comparison, the share of images whose most similar text is the matching one."""
        return [
            float((similarity(pairs.images, pairs.texts).argmax(dim=1) == pairs.targets).float().mean())
            for pairs in self(images, texts)
        ]

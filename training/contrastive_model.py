"""What stage 1 puts around the vision tower: a head that sums a picture up, and a tower for its text.

As in SigLIP (arXiv 2303.15343, section 3): attention pooling over the patches (arXiv 2106.04560, section
3.3), a bidirectional text transformer whose last token, padding included, stands for the text, and a learned
temperature and bias that start at 10 and -10. None of it is part of PaliGemma; only the vision tower goes on.

Legend: B batch, I patches, R objects of all pictures, Q pictures with print, C different texts, L tokens of a
text, D width of a tower, E width of the shared space.
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

from .initialization import initialise

HEAD_WIDTH = 32  # of the text tower's attention
TEMPERATURE, BIAS = math.log(10.0), -10.0  # at the start (arXiv 2303.15343, section 3.2)


@dataclass(frozen=True)
class Seen:
    """Pictures, with where their objects are and which of them have print."""

    pixel_values: Tensor  # float[B, 3, S, S]
    pictures: Tensor  # int64[R], the picture of each object
    areas: Tensor  # float32[R, I], what share of an object's box each patch is
    printed: Tensor  # int64[Q], pictures that have print


@dataclass(frozen=True)
class Texts:
    """Descriptions of pictures, phrases for objects, and print; each different text once."""

    ids: tuple[Tensor, Tensor, Tensor]  # int64[C, L] each
    own: tuple[Tensor, Tensor, Tensor]  # int64[B], int64[R], int64[Q]: which text is a picture's, ...


@dataclass(frozen=True)
class Compared:
    """One comparison."""

    images: Tensor  # float[B, E]
    texts: Tensor  # float[C, E]
    own: Tensor  # int64[B], which text belongs to each


class AttentionPool(nn.Module):
    """One learned query looks at every patch; an MLP is added to what it saw."""

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
        """float[B, I, D] -> float[B, D]."""
        query = self.probe.to(patches.dtype).expand(len(patches), 1, -1)
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x in (query, self.k_proj(patches), self.v_proj(patches))
        )
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        pooled = self.out_proj(seen)[:, 0]
        out: Tensor = pooled + self.mlp(self.layer_norm(pooled))
        return out


class TextTower(nn.Module):
    """Ids to one vector."""

    def __init__(self, vocabulary: int, tokens: int, width: int, layers: int, out: int) -> None:
        super().__init__()
        # SigLIP's text layers are its vision layers; of the picture's sizes they use none.
        config = VisionConfig(width, 4 * width, layers, width // HEAD_WIDTH, image_size=1, patch_size=1)
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.empty(tokens, width))
        self.encoder = Encoder(config)
        self.final_layer_norm = LayerNorm(width, config.layer_norm_eps)
        self.head = Linear(width, out, bias=True)

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """int64[B, L], padded to the tower's length -> dtype[B, E]."""
        x = (self.embed_tokens(ids) + self.places).to(dtype)
        last = self.final_layer_norm(self.encoder(x))[:, -1]
        out: Tensor = self.head(last)
        return out


class Contrast(nn.Module):
    """Both towers and the loss between them.

    A picture is compared with texts three times: as a whole with its description, at each of its objects with
    that object's phrase (as in RegionCLIP, arXiv 2112.09106, section 3.2), and with what is printed in it.
    """

    def __init__(self, vision: VisionTower, config: VisionConfig, text: TextTower) -> None:
        super().__init__()
        self.vision_tower = vision
        self.whole, self.printed = AttentionPool(config), AttentionPool(config)
        self.object = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.text_tower = text
        self.log_scales = nn.Parameter(torch.full((3,), TEMPERATURE))
        self.biases = nn.Parameter(torch.full((3,), BIAS))
        for part in ("whole", "printed", "object", "text_tower"):
            for name, weight in self.get_submodule(part).named_parameters(part):
                initialise(name, weight)

    def forward(self, seen: Seen, texts: Texts) -> tuple[Compared, Compared, Compared]:
        """Vectors of the three comparisons: whole pictures, objects, print."""
        patches = self.vision_tower(seen.pixel_values)
        objects = self.object((seen.areas.to(patches.dtype)[:, None] @ patches[seen.pictures])[:, 0])
        images = (self.whole(patches), objects, self.printed(patches[seen.printed]))
        vectors = [self.text_tower(ids, patches.dtype) for ids in texts.ids]
        whole, phrases, prints = map(Compared, images, vectors, texts.own)
        return whole, phrases, prints

    def loss(self, seen: Seen, texts: Texts, chunk: int | None) -> Tensor:
        """SigLIP's loss of the three comparisons together: float32[]."""
        total = torch.zeros(())
        for index, one in enumerate(self(seen, texts)):
            scale, bias = self.log_scales[index], self.biases[index]
            total = total + siglip_loss(one.images, one.texts, scale, bias, own=one.own, chunk=chunk)
        return total

    @torch.inference_mode()
    def found(self, seen: Seen, texts: Texts) -> tuple[float, float, float]:
        """Share of pictures, objects and prints whose own text is the nearest of all."""
        whole, objects, prints = (
            float((similarity(one.images, one.texts).argmax(dim=1) == one.own).float().mean())
            for one in self(seen, texts)
        )
        return whole, objects, prints

"""PaliGemma: a model that reads images and a prompt and generates text (arXiv 2407.07726, arXiv 2412.03555).

The model has three methods. Each is exported as a graph:

    encode_image   pixels -> image features                          per image
    prefill        image features, prompt -> first logits, cache     per request
    decode_step    new tokens, cache -> next logits, longer cache    per generated token

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cache import Cache
from .config import PaliGemmaConfig
from .gemma import Gemma
from .linear import Linear
from .mask import prefix_mask, step_mask
from .siglip import VisionTower


class MultiModalProjector(nn.Module):
    """Linear layer that maps patch vectors of the vision tower to image tokens of the decoder."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.linear = Linear(config.vision_config.hidden_size, config.text_config.hidden_size, bias=True)

    def forward(self, patches: Tensor) -> Tensor:
        """Project patch vectors: float[M, I, vision_width] -> float[M, I, D]."""
        features: Tensor = self.linear(patches)
        return features


class PaliGemma(nn.Module):
    """The whole model. The model keeps no state between calls: the cache is an argument and a result."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision_config)
        self.multi_modal_projector = MultiModalProjector(config)
        self.language_model = Gemma(config.text_config)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Return the features of images: float[M, 3, S, S] in [-1, 1] -> float[M, I, D]."""
        features: Tensor = self.multi_modal_projector(self.vision_tower(pixel_values))
        return features

    def prefill(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Process images and prompt in one pass. All tokens of the prefix see each other.

        Image features precede the text and are not scaled; only token embeddings are multiplied by sqrt(D). A
        row of fewer than T ids is padded on the right with any id.

        Args:
            input_ids: int64[B, T], the ids of BOS, prompt and newline.
            image_features: float[B, N, D], the features of all images of a row, one image after the other.
            text_lengths: int64[B], number of ids of each row without padding.

        Returns:
            Logits float[B, V] for the token that follows each row's prefix, and a cache of L = N + T slots.
        """
        text = self.language_model.embed(input_ids, image_features.dtype)
        x = torch.cat([image_features, text], dim=1)  # [B, L, D]
        lengths = image_features.shape[1] + text_lengths
        positions = torch.arange(x.shape[1], device=x.device)[None]
        masks = (prefix_mask(lengths, x.shape[1]),) * len(self.language_model.layers)
        x, cache = self.language_model(x, positions, masks, None, lengths)
        # The rows are concatenated, so that a plain Gather selects the last token of each row. In the ONNX
        # reference evaluator, GatherElements would fail along an axis of more than 64 tokens.
        last = torch.arange(x.shape[0], device=x.device) * x.shape[1] + lengths - 1
        return self.language_model.logits(x.flatten(0, 1).index_select(0, last)), cache

    def decode_step(self, input_ids: Tensor, past_lengths: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Append T tokens to each row, usually one. Each token sees itself and the tokens before it.

        A row of fewer than T new tokens is padded on the right with any id. If later calls count only the new
        tokens in `past_lengths`, they overwrite the slots of the padding.

        Args:
            input_ids: int64[B, T], the ids of the new tokens of each row.
            past_lengths: int64[B], number of slots that each row uses, and position of its first new token.
            past: the cache of P slots.

        Returns:
            Logits float[B * T, V] for the token that follows each new token: row b * T + t belongs to token t
            of row b. And the cache of P + T slots.
        """
        x = self.language_model.embed(input_ids, past[0].key.dtype)
        tokens = x.shape[1]
        slots = past[0].key.shape[2] + tokens
        config = self.config.text_config
        positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
        # Attention concatenates the query heads of a key-value head along the token axis.
        queries = positions[:, None].expand(-1, config.query_groups, -1).flatten(1)  # [B, G * T]
        global_mask = step_mask(queries, slots, None)
        sliding_mask = global_mask
        if config.sliding_window is not None:
            sliding_mask = step_mask(queries, slots, config.sliding_window)
        masks = tuple(
            global_mask if config.window(layer) is None else sliding_mask
            for layer in range(config.num_hidden_layers)
        )
        x, cache = self.language_model(x, positions, masks, past, past_lengths)
        return self.language_model.logits(x.flatten(0, 1)), cache

"""PaliGemma: a picture and a prompt in, text out (arXiv 2407.07726, arXiv 2412.03555).

Three verbs, which are the three exported graphs:

    encode_image   pixels -> image features                        once an image
    prefill        image features, prompt -> first logits, cache   once a request
    decode_step    one token, cache -> next logits, longer cache   once a generated token

Legend: B batch, S image side in pixels, I tokens an image, N image tokens of a row (I times its images),
T prompt tokens of the longest row, D text width, P cache slots, V vocabulary.
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
    """One linear layer from SigLIP's width to the decoder's."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.linear = Linear(config.vision_config.hidden_size, config.text_config.hidden_size, bias=True)

    def forward(self, patches: Tensor) -> Tensor:
        """float[B, I, D_vision] -> float[B, I, D]."""
        features: Tensor = self.linear(patches)
        return features


class PaliGemma(nn.Module):
    """The whole model; its state is in its arguments and results."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision_config)
        self.multi_modal_projector = MultiModalProjector(config)
        self.language_model = Gemma(config.text_config)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Pictures to image tokens: float[B, 3, S, S] in [-1, 1] -> float[B, I, D]."""
        features: Tensor = self.multi_modal_projector(self.vision_tower(pixel_values))
        return features

    def prefill(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Read image and prompt at once, every prefix token seeing every other.

        Image features stand before the text and enter unscaled; only token embeddings are multiplied by
        sqrt(D). Rows shorter than T are padded on the right with any id.

        Args:
            input_ids: int64[B, T], BOS, prompt, newline.
            image_features: float[B, N, D].
            text_lengths: int64[B], real tokens of each row of input_ids.

        Returns:
            logits float[B, V] behind each row's last real token, and the cache of N + T slots.
        """
        text = self.language_model.embed(input_ids, image_features.dtype)
        x = torch.cat([image_features, text], dim=1)
        lengths = image_features.shape[1] + text_lengths
        positions = torch.arange(x.shape[1], device=x.device)[None]
        masks = (prefix_mask(lengths, x.shape[1]),) * len(self.language_model.layers)
        x, cache = self.language_model(x, positions, masks, None, lengths)
        # Rows stand one behind the other, so that a plain Gather takes each row's last token: the ONNX
        # reference evaluator's GatherElements cannot look along more than 64 tokens.
        last = torch.arange(x.shape[0], device=x.device) * x.shape[1] + lengths - 1
        return self.language_model.logits(x.flatten(0, 1).index_select(0, last)), cache

    def decode_step(
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        past: Cache,
    ) -> tuple[Tensor, Cache]:
        """Add one token to each row.

        Args:
            input_ids: int64[B, 1].
            past_lengths: int64[B], slots of each row's cache that are in use: where the token is written.
            past: the cache of P slots.

        Returns:
            logits float[B, V], and the cache of P + 1 slots.
        """
        x = self.language_model.embed(input_ids, past[0].key.dtype)
        slots = past[0].key.shape[2] + 1
        everything = step_mask(past_lengths, slots, None)
        config = self.config.text_config
        sliding = (
            everything
            if config.sliding_window is None
            else step_mask(past_lengths, slots, config.sliding_window)
        )
        masks = tuple(
            everything if config.window(layer) is None else sliding
            for layer in range(config.num_hidden_layers)
        )
        x, cache = self.language_model(x, past_lengths[:, None], masks, past, past_lengths)
        return self.language_model.logits(x[:, 0]), cache

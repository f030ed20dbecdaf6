"""Configuration of a PaliGemma, as frozen dataclasses. Sizes that follow from other sizes are properties.

The fields have the names of the keys in the checkpoint's config.json, which checkpoint/config_json.py reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of SigLIP's vision tower (arXiv 2303.15343; shape So400m: arXiv 2305.13035)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int  # height and width in pixels
    patch_size: int  # height and width in pixels
    layer_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_patches(self) -> int:
        """Number of patches per image, which is the number of image tokens.

        The vision tower ignores pixels at the right and lower edge that do not fill a patch.
        """
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """Sizes and constants of the Gemma (arXiv 2403.08295) or Gemma 2 (arXiv 2408.00118) decoder."""

    model_type: Literal["gemma", "gemma2"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    query_pre_attn_scalar: float  # attention scores are divided by the square root of this number
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None  # width of the window in tokens; None: every layer sees all tokens
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 8192  # maximum length of a sequence in tokens, including image tokens
    tied_head: bool = True  # the output head is the matrix of the embedding

    @property
    def query_groups(self) -> int:
        """Number of query heads that share one key-value head (arXiv 2305.13245)."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def has_post_norms(self) -> bool:
        """True if attention and MLP outputs are normalised before they are added to the residual stream."""
        return self.model_type == "gemma2"

    def window(self, layer: int) -> int | None:
        """Return the number of most recent tokens that a layer attends to, or None for all tokens.

        Gemma 2's even layers have a sliding window (arXiv 2408.00118, section 2).
        """
        return self.sliding_window if layer % 2 == 0 else None


@dataclass(frozen=True)
class PaliGemmaConfig:
    """Configuration of PaliGemma 1 (arXiv 2407.07726) or 2 (arXiv 2412.03555)."""

    vision_config: VisionConfig
    text_config: TextConfig
    image_token_index: int  # id of the `<image>` placeholder

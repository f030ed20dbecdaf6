"""Configurations of the published sizes, and of tiny sizes for tests. The tiny sizes have every feature.

Sources: SigLIP So400m/14, arXiv 2305.13035; Gemma 2B, arXiv 2403.08295, table 1; Gemma 2, arXiv 2408.00118,
table 1 (both tables give the width of the MLP's gate and up projections together, twice `intermediate_size`);
their combinations in PaliGemma, arXiv 2407.07726 and 2412.03555; ids and vocabulary sizes, the published
config.json files.
"""

from __future__ import annotations

from .config import PaliGemmaConfig, TextConfig, VisionConfig

IMAGE_TOKEN = 257_152  # the ids before it: 256,000 pieces, 1,024 `<loc>`, 128 `<seg>`
# Rows of the stored embedding. The conversion to safetensors added the last 64, which were never trained.
# Neither published parameter counts nor the parameter counts below include these 64 rows.
VOCABULARY = 257_216
TINY_IMAGE_TOKEN = 120
TINY_VOCABULARY = 128


def paligemma_3b(image_size: int) -> PaliGemmaConfig:
    """PaliGemma 1: Gemma 2B. Published at 224, 448 and 896 px; 2,923,335,408 parameters at 224."""
    text = TextConfig(
        model_type="gemma",
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256.0,
    )
    return PaliGemmaConfig(_so400m(image_size), text, IMAGE_TOKEN)


def paligemma2_3b(image_size: int) -> PaliGemmaConfig:
    """PaliGemma 2 with Gemma 2 2B. Published at 224, 448 and 896 px; 3,032,094,960 parameters at 224."""
    text = _gemma2(
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256.0,
    )
    return PaliGemmaConfig(_so400m(image_size), text, IMAGE_TOKEN)


def paligemma2_10b(image_size: int) -> PaliGemmaConfig:
    """PaliGemma 2 with Gemma 2 9B. Published at 224, 448 and 896 px; 9,662,409,456 parameters at 224."""
    text = _gemma2(
        hidden_size=3584,
        intermediate_size=14_336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256.0,
    )
    return PaliGemmaConfig(_so400m(image_size), text, IMAGE_TOKEN)


def paligemma2_28b(image_size: int) -> PaliGemmaConfig:
    """PaliGemma 2 with Gemma 2 27B. Published at 224, 448 and 896 px; 27,650,192,112 parameters at 224.

    Attention scores are divided by sqrt(hidden / heads) = sqrt(144), not by sqrt(head_dim).
    """
    text = _gemma2(
        hidden_size=4608,
        intermediate_size=36_864,
        num_hidden_layers=46,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=144.0,
    )
    return PaliGemmaConfig(_so400m(image_size), text, IMAGE_TOKEN)


def tiny_gemma(num_key_value_heads: int = 1) -> PaliGemmaConfig:
    """Return a tiny PaliGemma 1 with 4 query heads, 16 image tokens, and 1, 2 or 4 key-value heads.

    The published model has 1 key-value head.
    """
    text = TextConfig(
        model_type="gemma",
        vocab_size=TINY_VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        head_dim=8,
        query_pre_attn_scalar=8.0,
    )
    return PaliGemmaConfig(_tiny_siglip(), text, TINY_IMAGE_TOKEN)


def tiny_gemma2() -> PaliGemmaConfig:
    """Return a tiny PaliGemma 2 in which every feature of Gemma 2 changes the result.

    Soft caps are low enough to change the scores of random weights, 8 query heads share 4 key-value heads,
    the head width (16) differs from hidden / heads (8), the attention scalar (10) differs from 16 and from 8,
    and the window (7) is shorter than the 16 image tokens.
    """
    text = TextConfig(
        model_type="gemma2",
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        query_pre_attn_scalar=10.0,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        sliding_window=7,
    )
    return PaliGemmaConfig(_tiny_siglip(), text, TINY_IMAGE_TOKEN)


def _so400m(image_size: int) -> VisionConfig:
    """Return SigLIP So400m/14 for square images of `image_size` pixels a side.

    Of the weights, only the position embedding depends on `image_size`.
    """
    return VisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=image_size,
        patch_size=14,
    )


def _gemma2(
    *,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    query_pre_attn_scalar: float,
) -> TextConfig:
    """Return a Gemma 2 with the settings of all three sizes: caps of 50 and 30, a window of 4,096 tokens."""
    return TextConfig(
        model_type="gemma2",
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        query_pre_attn_scalar=query_pre_attn_scalar,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=4096,
    )


def _tiny_siglip() -> VisionConfig:
    """Return a tiny SigLIP of 4 x 4 patches. The patches leave out 2 rows and 2 columns of pixels."""
    return VisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=18,
        patch_size=4,
    )

"""Configurations of the published sizes, and of tiny sizes for tests. The tiny sizes have every feature.

Sources:

    SigLIP So400m/14                 arXiv 2305.13035
    Gemma 2B                         arXiv 2403.08295, table 1
    Gemma 2                          arXiv 2408.00118, table 1
    combinations in PaliGemma        arXiv 2407.07726 and arXiv 2412.03555
    ids and vocabulary sizes         config.json of the published checkpoints

Both tables 1 state the width of the MLP's gate and up projections together, which is twice
`intermediate_size`.
"""

from __future__ import annotations

from functools import partial

from .config import PaliGemmaConfig, TextConfig, VisionConfig

# Id of `<image>`. The smaller ids are 256,000 pieces of text, 1,024 `<loc>` tokens and 128 `<seg>` tokens.
IMAGE_TOKEN = 257_152
# Rows of the stored embedding. The conversion to safetensors added the last 64 rows, which were never
# trained. Published parameter counts and the counts below do not include them.
VOCABULARY = 257_216
TINY_IMAGE_TOKEN = 120
TINY_VOCABULARY = 128

# SigLIP So400m/14. Only the position embedding depends on `image_size`, the side of the images in pixels.
_so400m = partial(
    VisionConfig,
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    patch_size=14,
)
# A tiny SigLIP of 4 x 4 patches. The patches do not cover the last 2 rows and columns of pixels.
_TINY_SIGLIP = VisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=18,
    patch_size=4,
)
# Settings that all three sizes of Gemma 2 share.
_gemma2 = partial(
    TextConfig,
    model_type="gemma2",
    vocab_size=VOCABULARY,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    sliding_window=4096,
)


def paligemma_3b(image_size: int) -> PaliGemmaConfig:
    """Return PaliGemma 1 with Gemma 2B, published at 224, 448 and 896 pixels.

    The model has 2,923,335,408 parameters at 224 pixels.
    """
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
    return PaliGemmaConfig(_so400m(image_size=image_size), text, IMAGE_TOKEN)


def paligemma2_3b(image_size: int) -> PaliGemmaConfig:
    """Return PaliGemma 2 with Gemma 2 2B, published at 224, 448 and 896 pixels.

    The model has 3,032,094,960 parameters at 224 pixels.
    """
    text = _gemma2(
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256.0,
    )
    return PaliGemmaConfig(_so400m(image_size=image_size), text, IMAGE_TOKEN)


def paligemma2_10b(image_size: int) -> PaliGemmaConfig:
    """Return PaliGemma 2 with Gemma 2 9B, published at 224, 448 and 896 pixels.

    The model has 9,662,409,456 parameters at 224 pixels.
    """
    text = _gemma2(
        hidden_size=3584,
        intermediate_size=14_336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256.0,
    )
    return PaliGemmaConfig(_so400m(image_size=image_size), text, IMAGE_TOKEN)


def paligemma2_28b(image_size: int) -> PaliGemmaConfig:
    """Return PaliGemma 2 with Gemma 2 27B, published at 224, 448 and 896 pixels.

    The model has 27,650,192,112 parameters at 224 pixels. Attention scores are divided by
    sqrt(hidden / heads) = sqrt(144), not by sqrt(head_dim).
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
    return PaliGemmaConfig(_so400m(image_size=image_size), text, IMAGE_TOKEN)


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
    return PaliGemmaConfig(_TINY_SIGLIP, text, TINY_IMAGE_TOKEN)


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
    return PaliGemmaConfig(_TINY_SIGLIP, text, TINY_IMAGE_TOKEN)

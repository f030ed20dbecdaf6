"""Sizes of the measured models: the published 3B sizes, their vision towers, and tiny models for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paligemma_onnx.model import presets
from paligemma_onnx.model.config import PaliGemmaConfig

Family = Literal["paligemma", "paligemma2"]
Size = Literal["3b", "vision", "tiny"]
FAMILIES: tuple[Family, ...] = ("paligemma", "paligemma2")
SIZES: tuple[Size, ...] = ("3b", "vision", "tiny")
SIDES = (224, 448, 896)  # image sides in pixels, as published

LOCATIONS, SEGMENTS = 1024, 128  # numbers of `<loc>` and `<seg>` tokens; their ids follow those of the pieces
TINY_PIECES = 600  # tokens of a tiny model with ids below `<loc0000>`
# The other tools need rows that are a multiple of 32 values long, and heads that are at least this wide.
TINY_INTERMEDIATE, TINY_HEAD = 64, 16
UNTRAINED = presets.VOCABULARY - presets.IMAGE_TOKEN  # number of embedding rows from `<image>` to the last


@dataclass(frozen=True)
class BenchmarkModel:
    """Name and configuration of the measured model."""

    name: str  # name of the checkpoint's folder
    config: PaliGemmaConfig

    @property
    def is_tiny(self) -> bool:
        """True for a tiny decoder. Its figures are meaningless, and those of a tiny vision tower, too."""
        return self.pieces == TINY_PIECES

    @property
    def pieces(self) -> int:
        """Number of tokens with ids below `<loc0000>`."""
        return self.config.image_token_index - LOCATIONS - SEGMENTS


def benchmark_model(family: Family, size: Size, side: int) -> BenchmarkModel:
    """Return the model of a family and size.

    The size `vision` has the vision tower of the size `3b` and a tiny decoder.

    Args:
        family: family of the decoder.
        size: size of the model.
        side: image side in pixels; tiny models ignore it.
    """
    is_first = family == "paligemma"
    published = presets.paligemma_3b(side) if is_first else presets.paligemma2_3b(side)
    if size == "3b":
        return BenchmarkModel(f"{family}-{side}", published)
    config = presets.tiny_gemma() if is_first else presets.tiny_gemma2()
    # The preset has 120 ids below `<image>`, but a tokenizer needs at least 256 byte tokens.
    image_token = TINY_PIECES + LOCATIONS + SEGMENTS
    text = replace(
        config.text_config,
        vocab_size=image_token + UNTRAINED,
        intermediate_size=TINY_INTERMEDIATE,
        head_dim=TINY_HEAD,
        query_pre_attn_scalar=TINY_HEAD,
    )
    tiny = replace(config, text_config=text, image_token_index=image_token)
    if size == "vision":
        with_tower = replace(tiny, vision_config=published.vision_config)
        return BenchmarkModel(f"{family}-vision-{side}", with_tower)
    return BenchmarkModel(f"{family}-tiny", tiny)

"""Models that are measured: the published 3B ones with random weights, and miniatures to try the harness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paligemma_onnx.model import presets
from paligemma_onnx.model.config import PaliGemmaConfig

Family = Literal["paligemma", "paligemma2"]
Size = Literal["3b", "tiny"]
FAMILIES: tuple[Family, ...] = ("paligemma", "paligemma2")
SIZES: tuple[Size, ...] = ("3b", "tiny")
SIDES = (224, 448, 896)  # image sides in pixels, as published

LOCATIONS, SEGMENTS = 1024, 128  # number of `<loc>` and of `<seg>` tokens, which follow the pieces
TINY_PIECES = 600
# Other tools store rows of whole blocks of 32 values only, and take no narrower heads.
TINY_INTERMEDIATE, TINY_HEAD = 64, 16
UNTRAINED = presets.VOCABULARY - presets.IMAGE_TOKEN  # rows of the embedding from `<image>` on


@dataclass(frozen=True)
class BenchmarkModel:
    """The model that is measured."""

    name: str  # of its folder
    config: PaliGemmaConfig

    @property
    def is_tiny(self) -> bool:
        """True of a miniature, which runs but whose figures mean nothing."""
        return self.pieces == TINY_PIECES

    @property
    def pieces(self) -> int:
        """Number of tokens with ids below `<loc0000>`."""
        return self.config.image_token_index - LOCATIONS - SEGMENTS


def benchmark_model(family: Family, size: Size, side: int) -> BenchmarkModel:
    """Return the model of a family and size; `side`, in pixels, applies to full size only."""
    is_first = family == "paligemma"
    if size == "3b":
        config = presets.paligemma_3b(side) if is_first else presets.paligemma2_3b(side)
        return BenchmarkModel(f"{family}-{side}", config)
    config = presets.tiny_gemma() if is_first else presets.tiny_gemma2()
    image_token = (
        TINY_PIECES + LOCATIONS + SEGMENTS
    )  # the preset's 120 ids are fewer than the 256 byte tokens
    text = replace(
        config.text_config,
        vocab_size=image_token + UNTRAINED,
        intermediate_size=TINY_INTERMEDIATE,
        head_dim=TINY_HEAD,
        query_pre_attn_scalar=TINY_HEAD,
    )
    return BenchmarkModel(f"{family}-tiny", replace(config, text_config=text, image_token_index=image_token))

"""Which models are measured: the published 3B ones with random weights, and miniatures to try the harness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from paligemma_onnx.model import presets
from paligemma_onnx.model.config import PaliGemmaConfig

Family = Literal["paligemma", "paligemma2"]
Size = Literal["3b", "tiny"]
FAMILIES: tuple[Family, ...] = ("paligemma", "paligemma2")
SIZES: tuple[Size, ...] = ("3b", "tiny")
SIDES = (224, 448, 896)  # pixels, as published

LOCATIONS, SEGMENTS = 1024, 128  # `<loc>` and `<seg>` tokens behind the pieces
TINY_PIECES = 600
# Other tools take rows of whole blocks of 32 values only, and no narrower heads.
TINY_INTERMEDIATE, TINY_HEAD = 64, 16
UNTRAINED = presets.VOCABULARY - presets.IMAGE_TOKEN  # rows of the table from `<image>` on


@dataclass(frozen=True)
class Subject:
    """The model that is measured."""

    name: str  # of its folder
    config: PaliGemmaConfig

    @property
    def is_tiny(self) -> bool:
        """A miniature, which runs and whose figures mean nothing."""
        return self.pieces == TINY_PIECES

    @property
    def pieces(self) -> int:
        """Ids of the tokenizer in front of `<loc0000>`."""
        return self.config.image_token_index - LOCATIONS - SEGMENTS


def subject(family: Family, size: Size, side: int) -> Subject:
    """The model of that name; a miniature has a side of its own."""
    first = family == "paligemma"
    if size == "3b":
        config = presets.paligemma_3b(side) if first else presets.paligemma2_3b(side)
        return Subject(f"{family}-{side}", config)
    config = presets.tiny_gemma() if first else presets.tiny_gemma2()
    image_token = TINY_PIECES + LOCATIONS + SEGMENTS  # the presets' 120 ids have no room for 256 bytes
    text = replace(
        config.text_config,
        vocab_size=image_token + UNTRAINED,
        intermediate_size=TINY_INTERMEDIATE,
        head_dim=TINY_HEAD,
        query_pre_attn_scalar=TINY_HEAD,
    )
    return Subject(f"{family}-tiny", replace(config, text_config=text, image_token_index=image_token))

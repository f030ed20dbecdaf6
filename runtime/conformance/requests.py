"""The inputs of the comparison: images and prompts.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import PromptError
from ..image.open import open_image, preprocess
from ..text.tokenizer import PromptTokenizer
from .graph_set import GraphSet

# One prompt of each kind that PaliGemma was trained on.
PROMPTS = (
    "caption en",
    "answer en how many objects are there?",
    "detect circle ; square",
    "segment circle",
)
SIDE = 224  # pixels, of the drawn image


@dataclass(frozen=True)
class Request:
    """An image and a prompt."""

    pixel_values: NDArray[np.float32]  # [1, 3, S, S]
    input_ids: NDArray[np.int64]  # [1, T]


def read_requests(
    graph_set: GraphSet, images: Sequence[Path], prompts: Sequence[str], tokens: int
) -> tuple[Request, ...]:
    """Return each prompt with each image.

    Args:
        graph_set: the graphs that will run.
        images: image files; empty: a drawn image.
        prompts: texts; empty: PROMPTS.
        tokens: number of tokens of each answer.

    Raises:
        BundleError, ImageError, PromptError, ResourceError: as in the tokenizer and in `open_image`.
    """
    tokenizer, facts = PromptTokenizer.load(graph_set.folder / graph_set.tokens.file), graph_set.image
    space = graph_set.model.context_length - facts.tokens - tokens
    if space < 1:
        raise PromptError(f"the context has no space for {tokens} tokens; choose a smaller --tokens")
    opened = [open_image(path).rgb for path in images] or [draw_scene()]
    pixels = [preprocess(rgb, facts.size, facts.mean, facts.std, facts.rescale_factor) for rgb in opened]
    ids = [np.array([tokenizer.encode(prompt, space)], np.int64) for prompt in prompts or PROMPTS]
    return tuple(Request(image[None], row) for image in pixels for row in ids)


def draw_scene() -> Image.Image:
    """Return a drawn image of SIDE x SIDE pixels: a circle and a square on a plain background."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    canvas = ImageDraw.Draw(image)
    canvas.ellipse((30, 40, 100, 110), fill="red")
    canvas.rectangle((120, 110, 190, 180), fill="blue")
    return image

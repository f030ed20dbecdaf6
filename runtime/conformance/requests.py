"""The inputs of the comparison: images, prompts, and the calls of each graph that answer them.

The bundle layout is driven here. Another layout of the same model is another generator of calls.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..bundle.schema import SEG_TOKENS_PER_MASK, GraphSpec, Manifest
from ..errors import PromptError
from ..image.open import open_image, preprocess
from ..text.tokenizer import PromptTokenizer
from .interface import Arrays, Graph

# One prompt of each kind that PaliGemma was trained on.
PROMPTS = (
    "caption en",
    "answer en how many objects are there?",
    "detect circle ; square",
    "segment circle",
)
SIDE = 224  # pixels, of the drawn image
MASK_CODES = 128  # number of <seg> tokens


@dataclass(frozen=True)
class Request:
    """An image and a prompt."""

    pixel_values: NDArray[np.float32]  # [1, 3, S, S]
    input_ids: NDArray[np.int64]  # [1, T]


@dataclass(frozen=True)
class Call:
    """One run of a graph."""

    graph: str  # a field of Graphs in the manifest
    step: str  # vision_encoder, mask_decoder, prefill, step.0, ...
    inputs: Arrays
    outputs: Arrays


def read_requests(
    folder: Path, manifest: Manifest, images: Sequence[Path], prompts: Sequence[str], tokens: int
) -> tuple[Request, ...]:
    """Return each prompt with each image.

    Args:
        folder: the folder of the bundle.
        manifest: the bundle's manifest.
        images: image files; empty: a drawn image.
        prompts: texts; empty: PROMPTS.
        tokens: number of tokens of each answer.

    Raises:
        BundleError, ImageError, PromptError, ResourceError: as in the tokenizer and in `open_image`.
    """
    tokenizer, facts = PromptTokenizer.load(folder / manifest.tokens.file), manifest.image
    space = manifest.model.context_length - facts.tokens - tokens
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


def run_request(
    graphs: Mapping[str, Graph], manifest: Manifest, request: Request, tokens: int
) -> Iterator[Call]:
    """Answer a request greedily with graphs that are open, and yield every run of a graph.

    A stop token does not end the answer, so that every request has the same number of steps.

    Args:
        graphs: the open graphs by name.
        manifest: the bundle's manifest.
        request: image and prompt.
        tokens: number of decode steps.
    """

    def call(graph: str, step: str, available: Arrays) -> Call:
        """Run a graph on those of the available arrays that it takes."""
        spec = manifest.graphs.by_name[graph]
        inputs = {each.name: available[each.name] for each in spec.inputs}
        return Call(graph, step, inputs, graphs[graph](inputs))

    vision = call("vision_encoder", "vision_encoder", {"pixel_values": request.pixel_values})
    yield vision
    features = vision.outputs["image_features"]
    used = features.shape[1] + request.input_ids.shape[1]
    prefill = call(
        "prefill",
        "prefill",
        {
            "input_ids": request.input_ids,
            "image_features": features,
            "text_lengths": np.array([request.input_ids.shape[1]]),
            "past_lengths": np.array([0]),
            **_free_slots(manifest, manifest.graphs.prefill, used + tokens),
        },
    )
    yield prefill
    last = prefill
    for step in range(tokens):
        last = call(
            "decode",
            f"step.{step}",
            {
                "input_ids": np.array([[greedy_id(manifest, last)]]),
                "image_features": features[:, :0],
                "text_lengths": np.array([1]),
                "past_lengths": np.array([used + step]),
                **{
                    name.replace("present", "past_key_values"): value
                    for name, value in last.outputs.items()
                    if name.startswith("present")
                },
            },
        )
        yield last


def greedy_id(manifest: Manifest, call: Call) -> int:
    """Return the most likely token after a run of prefill or decode, except ids that are suppressed."""
    logits: NDArray[np.float32] = call.outputs["logits"][0].copy()
    logits[list(manifest.tokens.suppressed)] = -np.inf
    return int(logits.argmax())


def mask_codes() -> dict[str, NDArray[np.int64]]:
    """Return the input of the mask decoder: the codes of one mask, all different."""
    return {"codes": np.arange(SEG_TOKENS_PER_MASK)[None] * (MASK_CODES // SEG_TOKENS_PER_MASK)}


def _free_slots(manifest: Manifest, prefill: GraphSpec, slots: int) -> dict[str, NDArray[Any]]:
    """Return an empty cache of `slots` slots if prefill updates a cache in place, otherwise nothing."""
    facts = manifest.cache
    shape = (1, facts.heads, slots, facts.head_dim)
    names = (spec.name for spec in prefill.inputs if spec.name.startswith("past_key_values"))
    return {name: np.zeros(shape, np.float32) for name in names}

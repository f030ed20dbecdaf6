"""The calls of the graphs that answer a request: for a bundle, and for the layouts of other tools.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import SEG_TOKENS_PER_MASK
from .graph_set import GraphSet
from .interface import Arrays, Graph
from .requests import Request

MASK_CODES = 128  # number of <seg> tokens


@dataclass(frozen=True)
class Call:
    """One run of a graph."""

    graph: str  # its name in the graph set
    step: str  # vision_encoder, mask_decoder, prefill, step.0, ...
    inputs: Arrays
    outputs: Arrays


def run_request(
    graphs: Mapping[str, Graph], graph_set: GraphSet, request: Request, tokens: int
) -> Iterator[Call]:
    """Answer a request greedily with graphs that are open, and yield every run of a graph.

    A stop token does not end the answer, so that every request has the same number of steps.

    Args:
        graphs: the open graphs by name.
        graph_set: description of the graphs.
        request: image and prompt.
        tokens: number of decode steps.
    """
    run = _run_bundle if graph_set.layout == "bundle" else _run_layout
    return run(graphs, graph_set, request, tokens)


def greedy_id(graph_set: GraphSet, call: Call) -> int:
    """Return the most likely token after a run that computes logits, except ids that are suppressed."""
    logits: NDArray[np.float32] = call.outputs["logits"].reshape(-1).copy()  # [1, V] or [1, 1, V]
    logits[list(graph_set.tokens.suppressed)] = -np.inf
    return int(logits.argmax())


def mask_codes() -> dict[str, NDArray[np.int64]]:
    """Return the input of the mask decoder: the codes of one mask, all different."""
    return {"codes": np.arange(SEG_TOKENS_PER_MASK)[None] * (MASK_CODES // SEG_TOKENS_PER_MASK)}


def _run_bundle(
    graphs: Mapping[str, Graph], graph_set: GraphSet, request: Request, tokens: int
) -> Iterator[Call]:
    call = partial(_run_graph, graphs, graph_set)
    vision = call("vision_encoder", "vision_encoder", {"pixel_values": request.pixel_values})
    yield vision
    features = vision.outputs["image_features"]
    used = features.shape[1] + request.input_ids.shape[1]
    last = call(
        "prefill",
        "prefill",
        {
            "input_ids": request.input_ids,
            "image_features": features,
            "text_lengths": np.array([request.input_ids.shape[1]]),
            "past_lengths": np.array([0]),
            # Only a prefill that updates its cache in place reads one.
            **_zero_cache(graph_set, "prefill", used + tokens),
        },
    )
    yield last
    for step in range(tokens):
        last = call(
            "decode",
            f"step.{step}",
            {
                "input_ids": np.array([[greedy_id(graph_set, last)]]),
                "image_features": features[:, :0],
                "text_lengths": np.array([1]),
                "past_lengths": np.array([used + step]),
                **_next_cache(last),
            },
        )
        yield last


def _run_layout(
    graphs: Mapping[str, Graph], graph_set: GraphSet, request: Request, tokens: int
) -> Iterator[Call]:
    """Run the graphs as transformers.js and onnxruntime-genai do; the first cache has no slots."""
    call = partial(_run_graph, graphs, graph_set)
    vision = call("vision_encoder", "vision_encoder", {"pixel_values": request.pixel_values})
    yield vision
    features = vision.outputs["image_features"]
    features = features.reshape(-1, features.shape[-1])
    image = np.full((1, len(features)), graph_set.tokens.image)
    ids, past = np.concatenate([image, request.input_ids], axis=1), 0
    cache: Arrays = _zero_cache(graph_set, "decoder", 0)
    for step in ("prefill", *(f"step.{step}" for step in range(tokens))):
        embedding = call("embedding", step, {"input_ids": ids, "image_features": features})
        yield embedding
        embeds = embedding.outputs["inputs_embeds"].copy()
        if graph_set.layout == "transformers.js":  # the embedding graph of genai puts the features in place
            embeds[ids == graph_set.tokens.image] = features
        end = past + ids.shape[1]
        row = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(past, end)[None],
        }
        last = call("decoder", step, {**row, **cache})
        yield last
        ids, features, past = np.array([[greedy_id(graph_set, last)]]), features[:0], end
        cache = _next_cache(last)


def _run_graph(
    graphs: Mapping[str, Graph], graph_set: GraphSet, graph: str, step: str, available: Arrays
) -> Call:
    """Run a graph on those of the available arrays that it takes."""
    inputs = {each.name: available[each.name] for each in graph_set.graphs[graph].inputs}
    return Call(graph, step, inputs, graphs[graph](inputs))


def _zero_cache(graph_set: GraphSet, graph: str, slots: int) -> dict[str, NDArray[Any]]:
    """Return zeros for the cache that a graph reads; nothing if it reads none."""
    shape = graph_set.cache.shape(1, slots)
    names = (spec.name for spec in graph_set.graphs[graph].inputs if spec.name.startswith("past_key_values"))
    return {name: np.zeros(shape, np.float32) for name in names}


def _next_cache(call: Call) -> Arrays:
    """Return the cache that a call returned, with the names of inputs."""
    return {
        name.replace("present", "past_key_values"): value
        for name, value in call.outputs.items()
        if name.startswith("present")
    }

"""Run a planned batch: encode its images, prefill, decode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from ..cancellation import Cancelled
from ..graphs.model_runner import ImageFeatures, ModelRunner
from .decode_loop import DecodeTimings, decode_batch
from .plan import GenerationBatch, PlannedRequest
from .sampling import rng_for


def run_batch(batch: GenerationBatch, runner: ModelRunner) -> Iterator[tuple[PlannedRequest, str]]:
    """Generate the answers of a batch; yield each piece of text with its request.

    After a cancellation the iteration ends without an error. Each unfinished request then keeps the tokens
    generated so far, and its finish reason is `cancelled`.

    Raises:
        NumericsError: the logits are NaN or infinite.
        ResourceError: out of memory.
    """
    if not batch.requests:
        return
    batch.started_at = time.perf_counter()
    try:
        features = runner.encode_image(np.stack(batch.images), batch.options.cancel)
        batch.vision_s = time.perf_counter() - batch.started_at
        for requests in _by_image_count(batch.requests):
            yield from _run_requests(batch, requests, features, runner)
    except Cancelled:
        for request in batch.requests:
            request.pieces.append(
                request.detokenizer.finish()
            )  # the detokenizer may hold back half a character
            yield request, request.pieces[-1]


def _by_image_count(requests: Sequence[PlannedRequest]) -> list[list[PlannedRequest]]:
    """Return the requests, grouped by their number of images.

    All rows of a prefill need the same number of image tokens.
    """
    groups: dict[int, list[PlannedRequest]] = {}
    for request in requests:
        groups.setdefault(len(request.images), []).append(request)
    return list(groups.values())


def _run_requests(
    batch: GenerationBatch, requests: list[PlannedRequest], features: ImageFeatures, runner: ModelRunner
) -> Iterator[tuple[PlannedRequest, str]]:
    timings = DecodeTimings()
    for request in requests:
        request.timings = timings
    events = decode_batch(
        runner,
        runner.gather_image_features(
            features, np.array([request.images for request in requests]), batch.options.cancel
        ),
        [request.prompt for request in requests],
        max_new_tokens=batch.options.max_new_tokens,
        sampling=batch.options.sampling,
        generators=[rng_for(request.seed, 0) for request in requests],
        grammars=[request.grammar for request in requests],
        scores=[request.scores for request in requests],
        cancel=batch.options.cancel,
        timings=timings,
    )
    for event in events:
        request = requests[event.row]
        if event.token_id is not None:
            request.token_ids.append(event.token_id)
            request.pieces.append(request.detokenizer.push(event.token_id))
            yield request, request.pieces[-1]
        if event.finish_reason is not None:
            request.finish_reason = event.finish_reason
            request.pieces.append(request.detokenizer.finish())
            yield request, request.pieces[-1]

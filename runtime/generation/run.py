"""Run a planned batch: encode images, prefill, decode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from ..cancellation import Cancelled
from ..graphs.model_runner import ImageFeatures, ModelRunner
from .decode_loop import Clock, decode_batch
from .plan import GenerationBatch, PlannedRequest
from .sampling import rng_for


def run_batch(job: GenerationBatch, runner: ModelRunner) -> Iterator[tuple[PlannedRequest, str]]:
    """Answer a job; yields each piece of text with its row.

    A cancelled job ends quietly: its rows keep what they have, and say so.

    Raises:
        NumericsError: the graphs answered with values that are not numbers.
        ResourceError: out of memory.
    """
    if not job.rows:
        return
    job.started = time.perf_counter()
    try:
        features = runner.encode_image(np.stack(job.pictures), job.cancel)
        job.vision_s = time.perf_counter() - job.started
        for rows in _by_picture_count(job.rows):
            yield from _run_rows(job, rows, features, runner)
    except Cancelled:
        for row in job.rows:
            row.pieces.append(row.detokenizer.finish())  # the half of a character may be held back
            yield row, row.pieces[-1]


def _by_picture_count(rows: Sequence[PlannedRequest]) -> list[list[PlannedRequest]]:
    """Rows of one batch share the number of image tokens, so rows with as many pictures go together."""
    groups: dict[int, list[PlannedRequest]] = {}
    for row in rows:
        groups.setdefault(len(row.pictures), []).append(row)
    return list(groups.values())


def _run_rows(
    job: GenerationBatch, rows: list[PlannedRequest], features: ImageFeatures, runner: ModelRunner
) -> Iterator[tuple[PlannedRequest, str]]:
    clock = Clock()
    for row in rows:
        row.clock = clock
    events = decode_batch(
        runner,
        runner.gather_image_features(features, np.array([row.pictures for row in rows]), job.cancel),
        [row.prompt for row in rows],
        max_new_tokens=job.max_new_tokens,
        sampling=job.sampling,
        generators=[rng_for(row.seed, 0) for row in rows],
        forms=[row.form for row in rows],
        cancel=job.cancel,
        clock=clock,
    )
    for event in events:
        row = rows[event.row]
        if event.id is not None:
            row.ids.append(event.id)
            row.pieces.append(row.detokenizer.push(event.id))
            yield row, row.pieces[-1]
        if event.finish is not None:
            row.finish = event.finish
            row.pieces.append(row.detokenizer.finish())
            yield row, row.pieces[-1]

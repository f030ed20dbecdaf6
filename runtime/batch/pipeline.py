"""Turn items into rows: threads open images in advance, and the model answers one batch at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Protocol, Unpack

from ..bundle.schema import Manifest
from ..errors import NumericsError, PromptError, ResourceError
from ..generation.plan import plan_batch
from ..generation.sampling import NUM_SEEDS
from ..generation.types import Generation, Options, Request
from ..image.open import ImageInput
from ..image.picture import Picture
from ..text.tokenizer import PromptTokenizer
from .items import Item, Slice, stable_hash
from .rows import Row, RowError, RowTimings, parse_boxes, replace_surrogates
from .scoring import score_answer

PREFETCH = 2  # batches whose images are opened in advance


class Model(Protocol):
    """The part of `PaliGemma` that a batch run uses."""

    manifest: Manifest
    tokenizer: PromptTokenizer

    @property
    def device(self) -> str:
        """Name of the device, as `PaliGemma.device`."""

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:
        """Open an image, as `PaliGemma.open`."""

    def generate_batch(self, requests: Sequence[Request], **options: Unpack[Options]) -> list[Generation]:
        """Answer requests, as `PaliGemma.generate_batch`."""


@dataclass(frozen=True)
class BatchOptions:
    """Options for generating the rows of a run."""

    generation: Options  # options without a seed
    seed: int | None  # seed of the run; None if answers are greedy
    batch_size: int  # rows
    decoders: int  # threads that open images


@dataclass(frozen=True)
class OpenedItem:
    """An item with either a valid request or an error."""

    item: Item
    request: Request | RowError
    image: Picture | None  # also set if only the prompt is invalid
    seconds: float


def answer_items(model: Model, items: Iterator[Item], options: BatchOptions) -> Iterator[list[Row]]:
    """Yield one list of rows per batch, in the order of the items.

    The graphs run in a separate thread, so that the main thread can handle signals during a run.

    Raises:
        BundleError, ProviderError, OptionError: no item can be processed. A problem with a single item or
            with its answer is not raised, but becomes the error of the item's row.
    """
    open_one = partial(open_item, model, options)
    ahead = open_ahead(items, open_one, options.decoders, PREFETCH * options.batch_size)
    with ThreadPoolExecutor(1, "graphs") as graphs, closing(ahead):
        while batch := list(islice(ahead, options.batch_size)):
            yield graphs.submit(answer_batch, model, batch, options).result()


def open_ahead(
    items: Iterator[Item], open_one: Callable[[Item], OpenedItem], decoders: int, ahead: int
) -> Generator[OpenedItem, None, None]:
    """Open items in threads and yield the opened items in order; at most `ahead` items wait at any time."""
    pool = ThreadPoolExecutor(decoders, "decoder")
    waiting: deque[Future[OpenedItem]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(open_one, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def open_item(model: Model, options: BatchOptions, item: Item) -> OpenedItem:
    """Open an item's image and check its prompt. A problem is returned as an error and never raised."""
    started = time.perf_counter()
    if isinstance(item.image, RowError):
        return OpenedItem(item, item.image, None, 0.0)
    image: Picture | None = None
    request: Request | RowError
    try:
        source = item.image.read() if isinstance(item.image, Slice) else item.image
        image = model.open(source, max_image_pixels=options.generation["max_image_pixels"])
        if item.prompt is None:
            raise PromptError("the row has no prompt; give --prompt for rows without one")
        seed = None if options.seed is None else (options.seed + stable_hash(item.id)) % NUM_SEEDS
        request = Request(image, item.prompt, seed)
        plan_batch(
            [request], options.generation, model.manifest, model.tokenizer, device=model.device, load_s=0.0
        )
    except Exception as error:  # an unforeseen problem with one file must not end a run of millions
        request = RowError.of(error)
    return OpenedItem(item, request, image, time.perf_counter() - started)


def answer_batch(model: Model, batch: Sequence[OpenedItem], options: BatchOptions) -> list[Row]:
    """Return the rows of a batch.

    If the batch fails, run each item alone, so that only the items that cause the failure have an error.
    """
    requests = [opened.request for opened in batch if isinstance(opened.request, Request)]
    results: Iterator[Generation | RowError]
    try:
        results = iter(model.generate_batch(requests, **options.generation) if requests else ())
    except (NumericsError, ResourceError) as error:
        if len(requests) > 1:
            return [row for opened in batch for row in answer_batch(model, [opened], options)]
        results = iter([RowError.of(error)])
    rows = []
    for opened in batch:
        result = opened.request if isinstance(opened.request, RowError) else next(results)
        rows.append(_make_row(model, opened, result, options, len(requests)))
    return rows


def _make_row(
    model: Model, opened: OpenedItem, result: Generation | RowError, options: BatchOptions, batch: int
) -> Row:
    item, image = opened.item, opened.image
    row = Row(
        id=item.id,
        path=item.path,
        prompt=None if item.prompt is None else replace_surrogates(item.prompt),
        suffix=item.suffix,
        error=result if isinstance(result, RowError) else None,
        bundle_id=model.manifest.bundle_id,
    )
    if image is None:
        return row
    row = replace(row, width=image.width, height=image.height, warnings=image.warnings)
    if isinstance(result, RowError):
        return row
    boxes, malformed = parse_boxes(result, model.tokenizer, image.width, image.height)
    if item.suffix is not None:
        score = score_answer(result.token_ids, item.suffix, model.tokenizer)
        row = replace(row, exact_match=score.exact_match, token_accuracy=score.token_accuracy)
    times = result.timings
    return replace(
        row,
        text=result.text,
        boxes=boxes,
        tokens=None if result.logprobs is None else result.tokens,
        logprobs=result.logprobs,
        finish_reason=result.finish_reason,
        seed=None if options.seed is None else result.seed,
        warnings=row.warnings + malformed,
        timings=RowTimings(opened.seconds, times.vision_s, times.prefill_s, times.decode_s, batch),
    )

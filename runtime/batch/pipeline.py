"""Items to rows: pictures are opened in threads ahead of the model, which answers a batch at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, Unpack

from ..bundle.schema import Manifest
from ..errors import NumericsError, PromptError, ResourceError
from ..generation.plan import plan_batch
from ..generation.sampling import SEEDS
from ..generation.types import Generation, Options, Request
from ..image.open import ImageInput
from ..image.picture import Picture
from ..text.tokenizer import PromptTokenizer
from .items import Item, Slice, hash_of
from .rows import Row, RowError, RowTimings, boxes_in, readable

AHEAD = 2  # batches of pictures opened or being opened while one is answered


class Model(Protocol):
    """What of `PaliGemma` a batch needs."""

    manifest: Manifest
    tokenizer: PromptTokenizer

    @property
    def device(self) -> str:
        """Where the graphs run."""

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:
        """As `PaliGemma.open`."""

    def generate_batch(self, requests: Sequence[Request], **options: Unpack[Options]) -> list[Generation]:
        """As `PaliGemma.generate_batch`."""


@dataclass(frozen=True)
class BatchOptions:
    """How a model is asked."""

    options: Options  # without a seed
    seed: int | None  # of the run; None where answers are greedy
    batch_size: int  # rows
    decoders: int  # threads that open pictures


@dataclass(frozen=True)
class Opened:
    """An item whose picture and prompt can be used, or why they cannot."""

    item: Item
    request: Request | None
    fault: RowError | None
    picture: Picture | None  # also where only the prompt is at fault
    seconds: float


def answer_items(model: Model, items: Iterator[Item], asking: BatchOptions) -> Iterator[list[Row]]:
    """Rows of the items in their order, a batch at a time.

    The graphs run in a thread of their own, so that the main one can take a signal meanwhile.

    Raises:
        BundleError, ProviderError, OptionError: nothing can be asked. What is wrong with an item or with
            the answer about it is an error in its row.
    """

    def opened(item: Item) -> Opened:
        return open_item(model, item, asking)

    ahead = open_ahead(items, opened, asking.decoders, AHEAD * asking.batch_size)
    with ThreadPoolExecutor(1, "graphs") as graphs, closing(ahead):
        while batch := list(islice(ahead, asking.batch_size)):
            yield graphs.submit(answer, model, batch, asking).result()


def open_ahead(
    items: Iterator[Item], opened: Callable[[Item], Opened], decoders: int, ahead: int
) -> Generator[Opened, None, None]:
    """Open items in threads, in order, never more than `ahead` before they are asked for."""
    pool = ThreadPoolExecutor(decoders, "decoder")
    waiting: deque[Future[Opened]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(opened, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def open_item(model: Model, item: Item, asking: BatchOptions) -> Opened:
    """Open an item's picture and check its prompt; never raises."""
    started = time.perf_counter()
    picture, request, fault = None, None, None
    if isinstance(item.image, RowError):
        return Opened(item, None, item.image, None, 0.0)
    try:
        source = item.image.read() if isinstance(item.image, Slice) else item.image
        picture = model.open(source, max_image_pixels=asking.options["max_image_pixels"])
        if item.prompt is None:
            raise PromptError("the row has no prompt; give --prompt for rows without one")
        seed = None if asking.seed is None else (asking.seed + hash_of(item.id)) % SEEDS
        request = Request(picture, item.prompt, seed)
        plan_batch(
            [request], asking.options, model.manifest, model.tokenizer, device=model.device, load_s=0.0
        )
    except Exception as error:  # one file in a million that no check foresaw costs its own row, not the run
        request, fault = None, RowError.of(error)
    return Opened(item, request, fault, picture, time.perf_counter() - started)


def answer(model: Model, batch: Sequence[Opened], asking: BatchOptions) -> list[Row]:
    """Rows of a batch. Where it fails as a whole each is asked alone, so that only the guilty one is lost."""
    askable = [one for one in batch if one.request is not None]
    found: dict[int, Generation | RowError] = {}
    try:
        generations = _ask(model, askable, asking)
        found = {id(one): generation for one, generation in zip(askable, generations, strict=True)}
    except (NumericsError, ResourceError) as failure:
        if len(askable) == 1:
            found = {id(askable[0]): RowError.of(failure)}
        else:
            return [row for one in batch for row in answer(model, [one], asking)]
    return [_row(model, one, found.get(id(one), one.fault), asking, len(askable)) for one in batch]


def _ask(model: Model, askable: Sequence[Opened], asking: BatchOptions) -> list[Generation]:
    requests = [one.request for one in askable if one.request is not None]
    return model.generate_batch(requests, **asking.options) if requests else []


def _row(
    model: Model, one: Opened, found: Generation | RowError | None, asking: BatchOptions, batch: int
) -> Row:
    picture = one.picture
    row = Row(
        id=one.item.id,
        path=one.item.path,
        prompt=None if one.item.prompt is None else readable(one.item.prompt),
        width=None if picture is None else picture.width,
        height=None if picture is None else picture.height,
        text=None,
        boxes=(),
        finish_reason=None,
        seed=None,
        error=found if isinstance(found, RowError) else None,
        warnings=() if picture is None else picture.warnings,
        timings=None,
        bundle_id=model.manifest.bundle_id,
    )
    if picture is None or not isinstance(found, Generation):
        return row
    boxes, malformed = boxes_in(found.text, picture.width, picture.height)
    spent = found.timings
    return replace(
        row,
        text=found.text,
        boxes=boxes,
        finish_reason=found.finish_reason,
        seed=None if asking.seed is None else found.seed,
        warnings=row.warnings + malformed,
        timings=RowTimings(one.seconds, spent.vision_s, spent.prefill_s, spent.decode_s, batch),
    )

"""`generate`: the text on stdout while it is written, timings on stderr."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path

import click

from ..cancellation import Cancellation
from ..console import echo_stderr
from ..generation.types import Generation
from ..paligemma import PaliGemma, Stream
from .options import (
    CONSTRAINED,
    DEVICE,
    GPU_MEMORY,
    MAX_IMAGE_PIXELS,
    MAX_NEW_TOKENS,
    MODEL,
    RELEASE_VISION,
    THREADS,
    options_of,
    sampling,
)


@click.command()
@MODEL
@click.option("--image", type=click.Path(), required=True, multiple=True, help="Image file; may be repeated.")
@MAX_NEW_TOKENS
@sampling
@CONSTRAINED
@DEVICE
@THREADS
@GPU_MEMORY
@MAX_IMAGE_PIXELS
@RELEASE_VISION
@click.option("--json", is_flag=True, help="Print one JSON object when the answer is complete.")
@click.option("--stats", is_flag=True, help="Print timings on stderr.")
@click.option("--no-stream", is_flag=True, help="Print the text when it is complete.")
@click.argument("prompt")
def generate(
    model: Path,
    image: tuple[str, ...],
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    constrained: bool,
    device: str,
    threads: int | None,
    gpu_memory: int | None,
    max_image_pixels: int,
    release_vision: bool,
    json: bool,
    stats: bool,
    no_stream: bool,
    prompt: str,
) -> None:
    """Answer PROMPT about one or several images.

    PaliGemma was trained with prompts such as `caption en`, `answer en QUESTION`, `detect A ; B` and
    `segment A`.
    """
    cancel = Cancellation()
    options = options_of(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        constrained=constrained,
        max_image_pixels=max_image_pixels,
        cancel=cancel,
    )
    loaded = PaliGemma.load(
        model,
        device=device,
        threads=threads,
        keep_vision=not release_vision,
        memory_limit=gpu_memory,
    )
    stream = loaded.stream(list(image), prompt, **options)
    for warning in stream.result.warnings:
        echo_stderr(f"warning: {warning}")

    live = not (json or no_stream)
    try:
        interrupt = _follow(_Pieces(stream), cancel, live=live)
    except Exception:
        if live and stream.result.text:
            click.echo()  # what was written stays, on a line of its own
        raise
    finally:
        cancel.cancel()  # whatever happened, nobody takes more
    _print(stream.result, as_json=json, live=live, stats=stats)
    if interrupt is not None:
        raise interrupt


class _Pieces:
    """What a stream yields, produced in another thread.

    Python handles signals in the main thread, between bytecodes; a graph that ran there would keep Ctrl-C
    waiting until it is done. The thread is no daemon: Python waits for it before it takes itself apart, which
    an engine at work would not survive.
    """

    def __init__(self, stream: Stream) -> None:
        self._queue: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._stream = stream
        threading.Thread(target=self._produce).start()

    def _produce(self) -> None:
        try:
            for piece in self._stream:
                self._queue.put(piece)
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item


def _follow(pieces: _Pieces, cancel: Cancellation, *, live: bool) -> KeyboardInterrupt | None:
    """Print pieces as they come, and take them to their end; what interrupted them, if anything did."""
    interrupt = None
    while True:
        try:
            for piece in pieces:
                if live:
                    click.echo(piece, nl=False)
            return interrupt
        except KeyboardInterrupt as signalled:
            cancel.cancel()  # the worker ends within the graph run it is in; then the loop above ends
            interrupt = signalled


def _print(generation: Generation, *, as_json: bool, live: bool, stats: bool) -> None:
    if as_json:
        click.echo(dumps(asdict(generation)))
    else:
        click.echo("" if live else generation.text)
    if stats:
        times = generation.timings
        click.echo(
            f"load {times.load_s:.2f} s, vision {times.vision_s:.2f} s, prefill {times.prefill_s:.2f} s, "
            f"first token {times.time_to_first_token_s:.2f} s, decode {times.decode_s:.2f} s "
            f"({times.tokens_per_second:.1f} tokens/s), {generation.image_tokens} image and "
            f"{generation.prompt_tokens} prompt tokens, seed {generation.seed}, {generation.device}",
            err=True,
        )

"""The `generate` command: stream the answer to stdout, and print timings to stderr."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path

import click

from ..cancellation import Cancellation
from ..console import echo, echo_stderr
from ..generation.stream import Stream
from ..generation.types import Generation, Options
from ..interrupts import deferring_signals
from .generation_options import generation_options
from .options import ENGINE, MODEL, DeviceOptions, device_options
from .parameters import IMAGE, JSON, TextType


@click.command()
@MODEL
@click.option(
    "--image",
    metavar="FILE",
    type=IMAGE,
    required=True,
    multiple=True,
    help="Image file (JPEG, PNG, WebP, BMP, GIF or TIFF). Repeat it for several images.",
)
@generation_options
@device_options
@ENGINE
@JSON
@click.option("--stats", is_flag=True, help="Print timings and tokens/s to stderr.")
@click.argument("prompt", type=TextType())
def generate(
    model: Path,
    image: tuple[str, ...],
    prompt: str,
    options: Options,
    device: DeviceOptions,
    engine: str,
    json: bool,
    stats: bool,
) -> None:
    """Answer PROMPT about one or more images.

    The answer is printed while it is generated. PaliGemma expects prompts such as "caption en",
    "answer en QUESTION", "detect cat ; dog" or "segment cat".
    """
    cancel = Cancellation()
    request_options: Options = {**options, "cancel": cancel}
    stream = device.load(model, engine).stream(list(image), prompt, **request_options)
    for warning in stream.result.warnings:
        echo_stderr(f"warning: {warning}")
    with deferring_signals(
        cancel.cancel
    ):  # a signal ends the graph run in progress; the answer so far is printed
        try:
            for piece in _Pieces(stream):
                if not json and not echo(piece, end=""):
                    cancel.cancel()  # a reader such as `head -c 1` closed the pipe
        except Exception:
            if not json and stream.result.text:
                echo("")  # end the line of the partial answer
            raise
        finally:
            cancel.cancel()  # the thread must not outlive the command
        echo(dumps(asdict(stream.result)) if json else "")
        if stats:
            echo_stderr(_statistics(stream.result))


class _Pieces:
    """Iterator over the pieces of a stream, which another thread produces.

    Python runs signal handlers in the main thread, between bytecodes. If the graphs ran in the main thread,
    Ctrl-C would wait until a graph run ends. The other thread is not a daemon, so Python waits for it before
    the interpreter shuts down: onnxruntime crashes if the interpreter is finalized during a graph run.
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


def _statistics(generation: Generation) -> str:
    times = generation.timings
    return (
        f"load {times.load_s:.2f} s, vision {times.vision_s:.2f} s, prefill {times.prefill_s:.2f} s, "
        f"first token {times.time_to_first_token_s:.2f} s, decode {times.decode_s:.2f} s "
        f"({times.tokens_per_second:.1f} tokens/s), {generation.image_tokens} image and "
        f"{generation.prompt_tokens} prompt tokens, seed {generation.seed}, {generation.device}"
    )

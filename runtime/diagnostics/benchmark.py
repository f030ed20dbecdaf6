"""Measure requests on this machine: seconds per stage and per token, and the overhead outside the engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import Manifest
from ..errors import OptionError
from ..generation.types import Request
from ..graphs.model_runner import ModelRunner
from ..graphs.onnx_runner import OnnxModelRunner
from ..graphs.openvino_runner import OpenVinoRunner
from ..image.open import ImageInput, open_image
from ..paligemma import PaliGemma

MINUTE = 60.0  # seconds
KIB = 1 << 10  # bytes
WIDTH, HEIGHT = 640, 480  # size of the synthetic image in pixels, as of a small photograph
SEED = 0


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds of one batch with one image per row."""

    images: int
    tokens: int  # per answer
    vision_s: float  # per image, in the vision graph
    prefill_s: float  # for all rows, in the prefill graph
    time_to_first_token_s: float  # from the call: image preprocessing, vision, prefill, choice of a token
    token_s: float  # per decode step of all rows, including the Python code around the graph
    overhead_s: float  # the part of token_s spent outside the engine
    total_s: float

    @property
    def overhead_share(self) -> float:
        """Fraction of a decode step spent outside the engine."""
        return self.overhead_s / self.token_s

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all rows per second of decoding."""
        return self.images / self.token_s

    @property
    def images_per_minute(self) -> float:
        """Images per minute, computed from the duration of complete requests."""
        return self.images * MINUTE / self.total_s

    @property
    def tokens_per_minute(self) -> float:
        """Tokens of all rows per minute, computed from the duration of complete requests."""
        return self.tokens * self.images_per_minute


class TimedSession:
    """An onnxruntime session that records when each of its runs started and ended."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs: list[tuple[float, float]] = []  # time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the session."""
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run the session and record when the run started and ended."""
        started = time.perf_counter()
        self._session.run_with_iobinding(binding, options)
        self.runs.append((started, time.perf_counter()))


class TimedModel:
    """A compiled model of OpenVINO that records when each of its runs started and ended."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.runs: list[tuple[float, float]] = []  # time.perf_counter()

    def create_infer_request(self) -> TimedRequest:
        """Return a new request whose runs are timed."""
        return TimedRequest(self._compiled.create_infer_request(), self.runs)


@dataclass(frozen=True)
class TimedRequest:
    """A request to a compiled model. The object appends the start and the end of each run to `runs`."""

    request: Any
    runs: list[tuple[float, float]]

    def infer(self, inputs: Any, **options: bool) -> Any:
        """Run the model, and record when the run started and ended."""
        started = time.perf_counter()
        outputs = self.request.infer(inputs, **options)
        self.runs.append((started, time.perf_counter()))
        return outputs

    def cancel(self) -> None:
        """End the run of the request."""
        self.request.cancel()


def sum_seconds(runs: Sequence[tuple[float, float]]) -> float:
    """Return the total seconds of recorded runs."""
    return sum(ended - started for started, ended in runs)


def mean_seconds(runs: Sequence[tuple[float, float]]) -> float:
    """Return the mean seconds of recorded runs."""
    return sum_seconds(runs) / len(runs)


class Benchmark:
    """A loaded bundle with timed graphs, whose answers have exactly the requested number of tokens.

    Raises:
        TypeError: the model runs neither with onnxruntime nor with OpenVINO.
    """

    def __init__(self, model: PaliGemma) -> None:
        # Without stop ids the usual decode loop runs to the token limit: EOS is an ordinary token.
        self.manifest = replace(model.manifest, tokens=replace(model.manifest.tokens, stop=()))
        # The order of the graphs: vision encoder, prefill, decode.
        self.runner, self.sessions = _time_graphs(model.runner, self.manifest)
        self._model = PaliGemma(self.manifest, model.tokenizer, self.runner, model.load_s)

    def measure(self, images: Sequence[ImageInput], prompt: str, tokens: int) -> Cost:
        """Run one request with one row per image and return its cost.

        Args:
            images: the images, all different, because equal images would be encoded only once.
            prompt: the prompt of every row.
            tokens: number of tokens per answer, at least 2.

        Raises:
            OptionError: the context is too short for this number of tokens.
        """
        for session in self.sessions:
            session.runs.clear()
        started = time.perf_counter()
        requests = [Request(image, prompt) for image in images]
        answers = self._model.generate_batch(requests, max_new_tokens=tokens)
        ended = time.perf_counter()
        if (generated := len(answers[0].token_ids)) < tokens:
            raise OptionError(f"{tokens} tokens do not fit into the context, which has space for {generated}")
        vision, *decoder = self.sessions
        # Decode steps with many rows may run in the prefill session, too. The first run is the prefill.
        prefill, *steps = sorted(run for session in decoder for run in session.runs)
        # When the first step starts, the first token of every row is known.
        first = steps[0][0]
        token_s = (ended - first) / len(steps)
        return Cost(
            images=len(images),
            tokens=tokens,
            vision_s=sum_seconds(vision.runs) / len(images),  # a GPU encodes several images per run
            prefill_s=mean_seconds([prefill]),
            time_to_first_token_s=first - started,
            token_s=token_s,
            overhead_s=token_s - mean_seconds(steps),
            total_s=ended - started,
        )


def _time_graphs(
    runner: ModelRunner, manifest: Manifest
) -> tuple[ModelRunner, tuple[TimedSession | TimedModel, ...]]:
    """Return a runner with timed graphs and a manifest, and the timed vision encoder, prefill and decode.

    Raises:
        TypeError: the runner is of an unknown class.
    """
    if isinstance(runner, OnnxModelRunner):
        sessions = vision, prefill, decode = (
            TimedSession(runner.vision_session),
            TimedSession(runner.prefill_session),
            TimedSession(runner.decode_session),
        )
        timed = replace(
            runner,
            manifest=manifest,
            vision_session=vision,
            prefill_session=prefill,
            decode_session=decode,
        )
        return timed, sessions
    if isinstance(runner, OpenVinoRunner):
        models = {name: TimedModel(runner.compiled[name]) for name in ("vision_encoder", "prefill", "decode")}
        compiled = {**runner.compiled, **models}
        return replace(runner, manifest=manifest, compiled=compiled), tuple(models.values())
    raise TypeError(f"the graphs of {type(runner).__name__} cannot be timed")


def images_for(source: ImageInput | None, count: int) -> list[NDArray[np.uint8]]:
    """Return `count` different images, uint8[height, width, 3], at most 256.

    Image 0 is `source`, or a synthetic image if `source` is None. Image i is image 0 XOR i.
    """
    image = _synthetic_image() if source is None else np.asarray(open_image(source).rgb)
    return [image ^ np.uint8(index) for index in range(count)]


def _synthetic_image() -> NDArray[np.uint8]:
    """Return a colour gradient with noise, uint8[HEIGHT, WIDTH, 3]."""
    down, across = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    smooth = np.stack([across, down, across * down], axis=-1) * 200
    noise = np.random.default_rng(SEED).uniform(0, 50, smooth.shape)
    return (smooth + noise).astype(np.uint8)


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes, including mapped weights; None if unknown."""
    try:
        import resource  # noqa: PLC0415  absent on Windows
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB  # units: getrusage(2) of macOS and Linux

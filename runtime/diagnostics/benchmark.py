"""What a request costs on this machine: each stage, each token, and how much of that is the driver's own.

Legend: B pictures, one a row of the batch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..generation.types import Request
from ..graphs.onnx_runner import OnnxModelRunner
from ..image.open import ImageInput, open_image
from ..paligemma import PaliGemma

MINUTE = 60.0  # seconds
KIB = 1 << 10  # bytes
WIDTH, HEIGHT = 640, 480  # pixels of the synthetic picture: a small photograph's
SEED = 0


@dataclass(frozen=True)
class Cost:
    """What one request of B pictures took; seconds of a clock on the wall."""

    pictures: int
    tokens: int  # of each answer
    vision_s: float  # the vision graph, for each picture
    prefill_s: float  # the prefill graph, all rows
    time_to_first_token_s: float  # from the call on: pictures resized, vision, prefill, the choice of an id
    token_s: float  # one decode step and all that the driver does for it, all rows
    own_s: float  # of token_s, what passed outside the engine
    total_s: float

    @property
    def own_share(self) -> float:
        """Of a token's time, what passed outside the engine."""
        return self.own_s / self.token_s

    @property
    def tokens_per_second(self) -> float:
        """Of decode steps, all rows together."""
        return self.pictures / self.token_s

    @property
    def images_per_minute(self) -> float:
        """Pictures looked at and answered about, from end to end."""
        return self.pictures * MINUTE / self.total_s

    @property
    def tokens_per_minute(self) -> float:
        """Tokens of all answers, from end to end."""
        return self.tokens * self.images_per_minute


class TimedSession:
    """A session that notes when each of its runs began and ended."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs: list[tuple[float, float]] = []  # time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        """All else is the session's."""
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run, and note it."""
        started = time.perf_counter()
        self._session.run_with_iobinding(binding, options)
        self.runs.append((started, time.perf_counter()))


def sum_seconds(runs: Sequence[tuple[float, float]]) -> float:
    """Seconds of noted runs together."""
    return sum(ended - started for started, ended in runs)


def mean_seconds(runs: Sequence[tuple[float, float]]) -> float:
    """Seconds of a noted run."""
    return sum_seconds(runs) / len(runs)


class Benchmark:
    """A loaded bundle whose sessions are timed, and whose answers are as long as they are asked to be."""

    def __init__(self, model: PaliGemma) -> None:
        if not isinstance(model.runner, OnnxModelRunner):
            raise TypeError(f"only graphs are timed, not {type(model.runner).__name__}")
        runner, tokens = model.runner, model.manifest.tokens
        # Without stop ids the loop itself is the one every answer runs through: EOS is a token like others.
        self.manifest = replace(model.manifest, tokens=replace(tokens, stop=()))
        self.sessions = vision, prefill, decode = (
            TimedSession(runner.vision),
            TimedSession(runner.prefill_session),
            TimedSession(runner.decode_session),
        )
        self.runner = replace(
            runner, manifest=self.manifest, vision=vision, prefill_session=prefill, decode_session=decode
        )
        self._model = PaliGemma(self.manifest, model.tokenizer, self.runner, model.load_s)

    def ask(self, pictures: Sequence[ImageInput], prompt: str, tokens: int) -> Cost:
        """Answer one request.

        Args:
            pictures: B of them, no two alike, or the vision graph would run less often than B times.
            prompt: asked about each.
            tokens: of each answer, 2 at least.

        Raises:
            OptionError: the context has no room for so many tokens.
        """
        for session in self.sessions:
            session.runs.clear()
        started = time.perf_counter()
        requests = [Request(picture, prompt) for picture in pictures]
        answers = self._model.generate_batch(requests, max_new_tokens=tokens)
        ended = time.perf_counter()
        if (got := len(answers[0].token_ids)) < tokens:
            raise OptionError(f"{tokens} tokens do not fit into the context, which has room for {got}")
        vision, *decoder = self.sessions
        # Steps of many rows may run through the prefill's session.
        prefill, *steps = sorted(run for session in decoder for run in session.runs)
        # The first step starts when every row's first id is known.
        first = steps[0][0]
        token_s = (ended - first) / len(steps)
        return Cost(
            pictures=len(pictures),
            tokens=tokens,
            vision_s=sum_seconds(vision.runs) / len(pictures),  # a GPU sees several in a run
            prefill_s=mean_seconds([prefill]),
            time_to_first_token_s=first - started,
            token_s=token_s,
            own_s=token_s - mean_seconds(steps),
            total_s=ended - started,
        )


def images_for(source: ImageInput | None, count: int) -> list[NDArray[np.uint8]]:
    """So many pictures, uint8[H, W, 3], made from one by changes of its lowest bits; None: from a drawn one.

    No two are alike, since equal pictures of a request are looked at once.
    """
    picture = _drawn() if source is None else np.asarray(open_image(source).rgb)
    return [picture ^ np.uint8(index) for index in range(count)]


def _drawn() -> NDArray[np.uint8]:
    """Smooth colours with some noise."""
    down, across = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    smooth = np.stack([across, down, across * down], axis=-1) * 200
    noise = np.random.default_rng(SEED).uniform(0, 50, smooth.shape)
    return (smooth + noise).astype(np.uint8)


def peak_bytes() -> int | None:
    """The most memory this process has had resident, mapped weights included; None where nobody counts."""
    try:
        import resource  # noqa: PLC0415  absent on Windows
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB  # getrusage(2) of either system

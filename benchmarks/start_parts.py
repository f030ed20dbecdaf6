"""A process that starts a bundle and answers a request, and records when each part of the work ran."""

from __future__ import annotations

import functools
import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .memory import process_memory
from .metrics import PROMPT

INTERPRETER, IMPORTS, LOAD = "interpreter", "imports", "load"
VISION, PREFILL, DECODE = "vision run", "prefill run", "decode run"
RUNTIME = "paligemma_onnx.runtime"  # imported by `Start`, which times the import
# Module, class or "", name of the function, and part of the work that the function does.
WATCHED = (
    ("load", "", "read_manifest", "manifest"),
    ("load", "", "check_files", "file checks"),
    ("text.tokenizer", "PromptTokenizer", "load", "tokenizer"),
    ("engine.devices", "", "import_onnxruntime", "import of onnxruntime"),
    ("graphs.open_runner", "", "find_prepared", "search for prepared graphs"),
    ("engine.bundle_sessions", "", "open_session", "session {graph}"),
    ("paligemma", "", "plan_batch", "image and prompt"),
    ("graphs.onnx_runner", "OnnxModelRunner", "encode_image", VISION),
    ("graphs.onnx_runner", "OnnxModelRunner", "prefill", PREFILL),
    ("graphs.onnx_runner", "OnnxModelRunner", "decode", DECODE),
)


@dataclass(frozen=True)
class Span:
    """When a part of the work ran, in seconds since the process was started."""

    part: str
    begin_s: float
    end_s: float


class Start:
    """A process that loads a bundle when it is constructed, and records the parts of its work."""

    def __init__(self, folder: str, started: float, threads: int, low_memory: bool) -> None:
        """Load a bundle.

        Args:
            folder: the bundle.
            started: `time.perf_counter()` of the parent just before it started this process. On Linux this
                clock is the same in all processes.
            threads: threads per operator.
            low_memory: argument of `PaliGemma.load`.
        """
        self._started, self.spans, begin = started, list[Span](), time.perf_counter()
        self._lock = threading.Lock()
        self._record(INTERPRETER, started, begin)
        runtime = importlib.import_module(f"{RUNTIME}.paligemma")
        self._record(IMPORTS, begin, time.perf_counter())
        for module, class_name, name, part in WATCHED:
            owner = importlib.import_module(f"{RUNTIME}.{module}")
            owner = getattr(owner, class_name) if class_name else owner
            setattr(owner, name, self._watched(getattr(owner, name), part))
        begin = time.perf_counter()
        options = {"device": "cpu", "threads": threads, "low_memory": low_memory}
        self._model = runtime.PaliGemma.load(Path(folder), **options)
        self._record(LOAD, begin, time.perf_counter())
        self._processor_s = {"load": time.process_time()}

    def _record(self, part: str, begin: float, end: float) -> None:
        with self._lock:
            self.spans.append(Span(part, begin - self._started, end - self._started))

    def _watched(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return a function that calls `work` and records when it ran."""

        @functools.wraps(work)
        def watched(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                graph = getattr(arguments[1], "file", "") if len(arguments) > 1 else ""
                self._record(part.format(graph=graph), begin, time.perf_counter())

        return watched

    def answer(self, image: str, tokens: int) -> None:
        """Answer a request about an image, with an answer of exactly `tokens` tokens."""
        stop = self._model.manifest.tokens.stop
        self._model.generate(image, PROMPT, max_new_tokens=tokens, suppress_tokens=stop)
        self._processor_s.setdefault("first answer", time.process_time())

    def parts(self) -> dict[str, Any]:
        """Return the measured parts, and the seconds of processor time that all threads used until then."""
        return {"spans": [asdict(span) for span in self.spans], "processor_s": self._processor_s}

    def memory(self) -> dict[str, int]:
        """Return the memory of this process now, in bytes."""
        return asdict(process_memory(os.getpid(), proportional=True))

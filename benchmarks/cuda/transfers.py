"""Count the kernels of a decode step, and the bytes copied between GPU and CPU, with CUPTI.

torch's profiler collects the CUPTI events of the whole process, including those of onnxruntime. Every decode
step copies its logits to the CPU. If the events do not contain these copies, the events are incomplete, and
no counts are reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.graphs.buffer_pool import MIN_SLOTS

from ..decode_steps import start_decoding

PAST = 264  # cached tokens before the profiled steps, as for an image of 224 pixels and a short prompt
MAX_LISTED = 12  # maximum number of kernels in a report
Event = Mapping[str, Any]  # event of a trace in Chrome's trace format


def profile_steps(model: PaliGemma, rows: int, count: int) -> dict[str, Any]:
    """Return the kernels and the copied bytes per decode step.

    If no complete events are available, `seen` is false and `why` contains the reason.

    Args:
        model: a model on a GPU.
        rows: number of sequences in the batch.
        count: number of profiled decode steps.
    """
    logits_bytes = 4 * rows * model.manifest.model.vocab_size
    facts: dict[str, Any] = {
        "rows": rows,
        "logits_bytes": logits_bytes,
        "cache_bytes": cache_bytes(model, rows),
    }

    def capture_anew() -> Callable[[], None]:
        # The profiler may miss the kernels of CUDA graphs that were captured before it started. No request
        # has used this capacity before, so the decode step is captured again.
        step = start_decoding(model, model.runner, rows, PAST, 2 * count, capacity=2 * MIN_SLOTS)
        for _ in range(count):
            step()
        return step

    def steps(step: Callable[[], None]) -> None:
        for _ in range(count):
            step()

    events = cupti_events(capture_anew, steps)
    if isinstance(events, str):
        return facts | {"seen": False, "why": events}
    return facts | summarize(events, count, logits_bytes)


def cupti_events(prepare: Callable[[], Any], work: Callable[[Any], object]) -> list[Event] | str:
    """Run `work(prepare())`; return the GPU events of `work`, or the reason why events are missing."""
    if find_spec("torch") is None:
        return "torch is not installed; its profiler is needed"
    import torch  # noqa: PLC0415  only this function needs torch
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    if not torch.cuda.is_available():
        return "torch cannot use CUDA on this machine"
    with profile(activities=[ProfilerActivity.CUDA]):
        torch.cuda.synchronize()  # starts CUPTI
    prepared = prepare()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work(prepared)
        torch.cuda.synchronize()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    return [event for event in trace["traceEvents"] if event.get("ph") == "X"]


def cache_bytes(model: PaliGemma, rows: int) -> int:
    """Return the size in bytes of the smallest cache; a copy of any cache has at least this size."""
    facts = model.manifest.cache
    size = 4 if facts.dtype == "float32" else 2
    return 2 * facts.layers * rows * facts.heads * MIN_SLOTS * facts.head_dim * size


def summarize(events: Iterable[Event], count: int, logits_bytes: int) -> dict[str, Any]:
    """Return the kernels and the copied bytes per step, given the events of `count` steps."""
    events = list(events)
    copied = copied_bytes(events)
    if copied["to_host_bytes"] < logits_bytes * count:
        return {"seen": False, "why": "the profiler's events do not contain the copies of the logits"}
    names, busy = Counter[str](), Counter[str]()
    for event in events:
        if event.get("cat") == "kernel":
            names[event["name"]] += 1
            busy[event["name"]] += event["dur"]  # microseconds
    return {
        "seen": True,
        **{name: size / count for name, size in copied.items()},
        "kernels": names.total() / count,
        "kernels_s": busy.total() / 1e6 / count,
        "longest": [
            {"kernel": name, "times": names[name] / count, "s": duration / 1e6 / count}
            for name, duration in busy.most_common(MAX_LISTED)
        ],
    }


def copied_bytes(events: Iterable[Event]) -> dict[str, int]:
    """Return the bytes copied from the GPU to the CPU, from the CPU to the GPU, and within the GPU."""
    copied = {"to_host_bytes": 0, "to_device_bytes": 0, "on_device_bytes": 0}
    directions = {"DtoH": "to_host_bytes", "HtoD": "to_device_bytes", "DtoD": "on_device_bytes"}
    for event in events:
        if event.get("cat") == "gpu_memcpy":
            for mark, name in directions.items():
                if mark in event["name"]:
                    copied[name] += int(event.get("args", {}).get("bytes", 0))
    return copied

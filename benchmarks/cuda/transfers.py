"""What passes between machine and GPU in a decode step: never the cache.

Two looks. The engine writes the graph as it runs it, and a node that copies to or from the CPU is one of its
own, named Memcpy. And the GPU's own records (CUPTI, through torch's profiler) have each copy with its bytes;
they are trusted where they show the one copy that there must be, of the scores.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine import cuda_provider as cuda
from paligemma_onnx.runtime.engine.devices import PROVIDERS
from paligemma_onnx.runtime.engine.ort import import_onnxruntime
from paligemma_onnx.runtime.graphs.buffer_pool import MIN_SLOTS

from .decode_steps import steps
from .plan import index_of

COPYING = ("MemcpyToHost", "MemcpyFromHost")  # operators that the engine adds
LONGEST = 12  # kernels that are listed
Event = Mapping[str, Any]


class Traffic:
    """A bundle whose step is looked into; used in a process of its own."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder, self._device = Path(folder), device

    def nodes(self) -> dict[str, Any]:
        """What the step's graph is made of, as the engine runs it."""
        manifest = read_manifest(self._folder)
        graph = self._folder / manifest.graphs.decode.file
        kinds = Counter(node.op_type for node in optimised(graph, self._device).graph.node)
        copying = sum(kinds[kind] for kind in COPYING)
        return {"nodes": kinds.total(), "copying_nodes": copying, "kinds": dict(kinds.most_common())}

    def copies(self, rows: int, count: int) -> dict[str, Any]:
        """Bytes that pass in a step, beside those of scores and cache."""
        model = PaliGemma.load(self._folder, device=self._device)
        return profiled(model, rows, count)


def optimised(graph: Path, device: str) -> onnx.ModelProto:
    """A graph of a small model as the engine runs it."""
    ort = import_onnxruntime()
    options, provider = ort.SessionOptions(), PROVIDERS["cpu" if device == "cpu" else "cuda"]
    options.log_severity_level = 4
    chosen: Any = provider
    if provider == cuda.PROVIDER:
        cuda.start(ort, index_of(device))
        chosen = (provider, cuda.provider_options(index_of(device), cuda_graph=False))
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / graph.name)
        ort.InferenceSession(str(graph), options, providers=[chosen], enable_fallback=0)
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def profiled(model: PaliGemma, rows: int, count: int) -> dict[str, Any]:
    """A step's kernels and copies; `seen` is false where the GPU's records do not reach us."""
    import torch  # noqa: PLC0415  only here
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    facts = model.manifest
    found: dict[str, Any] = {
        "rows": rows,
        "scores_bytes": 4 * rows * facts.model.vocab_size,
        "cache_bytes": cache_bytes(model, rows),
    }
    if not torch.cuda.is_available():
        return found | {"seen": False, "why": "torch has no CUDA here"}
    with profile(activities=[ProfilerActivity.CUDA]):
        torch.cuda.synchronize()  # the GPU's records begin: they may lack steps that were recorded before
    go_on = steps(model, rows, count, 2 * MIN_SLOTS)  # more slots than others asked for, so recorded anew
    go_on()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        go_on()
        torch.cuda.synchronize()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return found | summed(events, count, found["scores_bytes"])


def cache_bytes(model: PaliGemma, rows: int) -> int:
    """Of the slots that the smallest memory for a cache has, the least that a copy of it would move."""
    facts = model.manifest.cache
    size = 4 if facts.dtype == "float32" else 2
    return 2 * facts.layers * rows * facts.heads * MIN_SLOTS * facts.head_dim * size


def summed(events: Iterable[Event], count: int, scores_bytes: int) -> dict[str, Any]:
    """Of a trace in Chrome's format, as torch's profiler writes it: what a step of `count` is made of."""
    every = [event for event in events if event.get("ph") == "X"]
    kernels = [event for event in every if event.get("cat") == "kernel"]
    copies = [event for event in every if event.get("cat") == "gpu_memcpy"]
    to_host = _bytes(copies, "DtoH")
    if to_host < scores_bytes * count:
        return {"seen": False, "why": "the GPU's records do not show the copies of scores"}
    names, busy = Counter[str](), Counter[str]()
    for event in kernels:
        names[event["name"]] += 1
        busy[event["name"]] += event["dur"]  # microseconds
    return {
        "seen": True,
        "to_host_bytes": to_host / count,
        "to_device_bytes": _bytes(copies, "HtoD") / count,
        "on_device_bytes": _bytes(copies, "DtoD") / count,
        "kernels": len(kernels) / count,
        "kernels_s": busy.total() / 1e6 / count,
        "longest": [
            {"kernel": name, "times": names[name] / count, "s": spent / 1e6 / count}
            for name, spent in busy.most_common(LONGEST)
        ],
    }


def _bytes(copies: Iterable[Event], way: str) -> int:
    return sum(int(event.get("args", {}).get("bytes", 0)) for event in copies if way in event["name"])

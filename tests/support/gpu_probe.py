"""Measurements on a GPU, each in a process: `python gpu_probe.py NAME JSON`, which prints the result as JSON.

JSON holds the keyword arguments of the function NAME. A process's peak and its failures then affect no other
test. The same code runs on a real GPU and on the fake CUDA runtime, whose environment has neither torch nor
onnx: functions that need them import them.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.cuda.device import Device  # noqa: E402
from paligemma_onnx.runtime import PaliGemma, Request  # noqa: E402
from paligemma_onnx.runtime.engine.devices import choose_placement  # noqa: E402
from paligemma_onnx.runtime.engine.memory import allocate  # noqa: E402
from paligemma_onnx.runtime.engine.ort import import_onnxruntime  # noqa: E402
from paligemma_onnx.runtime.errors import PaliGemmaError  # noqa: E402

IMAGE = str(ROOT / "export" / "demo" / "scene.png")
PROMPT = "caption en"
MB, KIB = 10**6, 1 << 10  # bytes
SMALLEST_BLOCK = 2 << 20  # bytes: the size in which a driver allocates


def ask(model: PaliGemma, rows: int, tokens: int) -> list[list[int]]:
    """Return the ids of the answers to a batch of equal requests."""
    answers = model.generate_batch([Request(IMAGE, PROMPT)] * rows, max_new_tokens=tokens)
    return [list(answer.token_ids) for answer in answers]


def outcome(work: Callable[[], object]) -> list[Any]:
    """Return the exit code and message of a call: 0 and nothing, or those of the error it raises."""
    try:
        work()
    except PaliGemmaError as error:
        return [error.exit_code, str(error)]
    return [0, ""]


def facts(device: str) -> dict[str, Any]:
    """Return the properties of the GPU."""
    return Device(device).facts()


def load(bundle: str, device: str) -> dict[str, Any]:
    """Load a bundle and return the device that it runs on, or how that failed."""
    names: list[str] = []
    code, message = outcome(lambda: names.append(PaliGemma.load(bundle, device=device).device))
    return {"device": names, "code": code, "message": message}


def agreement(bundle: str, device: str, answers: str, scenes: int) -> dict[str, Any]:
    """Compare a bundle's tokens with answers in a JSON file, under teacher forcing."""
    from benchmarks.cuda.prompts import all_prompts
    from benchmarks.cuda.teacher_forcing import token_agreement

    model = PaliGemma.load(bundle, device=device)
    expected = json.loads(Path(answers).read_text(encoding="utf-8"))
    facts = {"device": model.device, "load_s": model.load_s}
    return facts | token_agreement(model, all_prompts(scenes), expected)


def growth(bundle: str, device: str, requests: int, tokens: int) -> dict[str, Any]:
    """Return the GPU memory taken after each tenth of the requests; batches of 1 and 2 alternate."""
    gpu = Device(device)
    model, samples, host = PaliGemma.load(bundle, device=device), list[int](), list[int]()
    for number in range(requests):
        ask(model, 1 + number % 2, tokens)
        if (number + 1) * 10 // requests != number * 10 // requests:
            samples.append(gpu.taken())
            host.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB)
    return {"taken": samples, "host_peak": host}


def node_runs(bundle: str, device: str, rows: list[int], tokens: int) -> dict[str, Any]:
    """Run requests and return, from onnxruntime's profiler, what the decode session executed.

    A captured CUDA graph is replayed without executing nodes, so `runs` counts only runs that were not
    replayed.
    """
    ort, numbers = import_onnxruntime(), itertools.count()
    original = ort.SessionOptions
    with TemporaryDirectory() as folder:

        def profiled() -> Any:
            options = original()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / f"session-{next(numbers)}")
            return options

        ort.SessionOptions = profiled
        model = PaliGemma.load(bundle, device=device)
        for count in rows:
            ask(model, count, tokens)
        file = Path(model.runner.decode_session.end_profiling())
        events = json.loads(file.read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node"]
    copies = [event["name"] for event in nodes if "Memcpy" in event["args"]["op_name"]]
    executions = [event["name"] for event in nodes]
    return {"copies": copies, "runs": executions.count(executions[0]), "nodes": len(set(executions))}


def transfers(bundle: str, device: str, rows: int, tokens: int) -> dict[str, Any]:
    """Return the bytes copied in the second of two equal requests, and the sizes to compare them with."""
    from benchmarks.cuda.transfers import copied_bytes, cupti_events

    model = PaliGemma.load(bundle, device=device)

    def requests(_: object) -> None:
        ask(model, rows, tokens)

    facts = model.manifest
    sizes = {
        "logits": tokens * rows * facts.model.vocab_size * 4,
        "pixels": 3 * facts.image.size**2 * 4,
        "features": rows * facts.image.tokens * facts.model.hidden_size * 4,
        "in_place": facts.cache.update == "in_place",
    }
    events = cupti_events(lambda: requests(None), requests)
    if isinstance(events, str):
        return {"why": events}
    launches = sum(event["name"].startswith("cudaGraphLaunch") for event in events)
    return sizes | copied_bytes(events) | {"graph_launches": launches}


def step_transfers(bundle: str, device: str, rows: int, count: int) -> dict[str, Any]:
    """Return kernels and copied bytes of a decode step."""
    from benchmarks.cuda.transfers import profile_steps

    return profile_steps(PaliGemma.load(bundle, device=device), rows, count)


def fill(gpu: Device, left: int) -> list[ctypes.c_void_p]:
    """Allocate all memory of the GPU but `left` bytes, and return what to free."""

    def take(size: int) -> ctypes.c_void_p | None:
        block = ctypes.c_void_p()
        error = gpu.library.cudaMalloc(ctypes.byref(block), ctypes.c_size_t(size))
        return None if error else block

    reserve, blocks, size = take(left), list[ctypes.c_void_p](), 1 << 30
    while size >= SMALLEST_BLOCK:
        if (block := take(size)) is None:
            size //= 2
        else:
            blocks.append(block)
    gpu.library.cudaFree(reserve)
    return blocks


def out_of_memory(bundle: str, device: str, left: int, rows: int) -> dict[str, Any]:
    """Return outcomes on a GPU whose memory is nearly used up.

    Returns:
        `many` and `one`: requests of many rows and of one row while `left` bytes are free. `load`: loading
        while next to nothing is free. `again`: a request of one row after the memory is freed.
    """
    gpu, model = Device(device), PaliGemma.load(bundle, device=device)
    ask(model, 1, 2)
    outcomes = {}
    blocks = fill(gpu, left)
    outcomes["many"] = outcome(lambda: ask(model, rows, 2))
    outcomes["one"] = outcome(lambda: ask(model, 1, 2))
    blocks += fill(gpu, SMALLEST_BLOCK)
    outcomes["load"] = outcome(lambda: PaliGemma.load(bundle, device=device))
    for block in blocks:
        gpu.library.cudaFree(block)
    return outcomes | {"again": outcome(lambda: ask(model, 1, 2))}


def limits(bundle: str, device: str, load_limit: int, limit: int, rows: int) -> dict[str, Any]:
    """Return outcomes of loading within `load_limit`, and of requests within `limit`."""
    outcomes = {"load": outcome(lambda: PaliGemma.load(bundle, device=device, memory_limit=load_limit))}
    model = PaliGemma.load(bundle, device=device, memory_limit=limit)
    outcomes["one"] = outcome(lambda: ask(model, 1, 2))
    outcomes["many"] = outcome(lambda: ask(model, rows, 2))
    return outcomes | {"again": outcome(lambda: ask(model, 1, 2))}


def allocations(device: str, limit: int | None) -> dict[str, Any]:
    """Allocate 600, 100 and 50 MB, then twice 10 MB; return the MB taken after each, or -1."""
    placement = choose_placement(device, 1, memory_limit=None if limit is None else limit * MB)
    gpu, held, taken = Device(device), list[Any](), list[int]()
    for size in (600, 100, 50):
        try:
            held.append(allocate(size * MB, placement))
            taken.append(gpu.taken() // MB)
        except Exception:
            taken.append(-1)
    held[0].update_inplace(np.ones(600 * MB // 8, "int64"))
    assert held[0].numpy().min() == 1
    del held[:]
    for _ in range(2):
        allocate(10 * MB, placement)
    return {"taken": taken, "left": gpu.taken() // MB}


def threads(bundle: str, device: str, tokens: int) -> dict[str, Any]:
    """Return the answers of 24 batches of 1 to 4 rows: alone, by rows, and from six threads at once."""
    model, rows = PaliGemma.load(bundle, device=device), [1, 2, 3, 4]
    alone = [ask(model, count, tokens) for count in rows]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda count: ask(model, count, tokens), rows * 6))
    return {"alone": alone, "together": together}


def interrupts(bundle: str, device: str, delays: list[float], tokens: int) -> dict[str, Any]:
    """Interrupt a first request after each delay in seconds; return the answers before, and after each."""
    expected = ask(PaliGemma.load(bundle, device=device), 1, tokens)
    gpu, answers, interrupted = Device(device), list[Any](), 0
    for delay in delays:
        model = PaliGemma.load(bundle, device=device)
        timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
        try:
            timer.start()
            ask(model, 1, tokens)
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        answers += [ask(model, 1, tokens) for _ in range(2)]
        del model
    return {"expected": expected, "answers": answers, "interrupted": interrupted, "left": gpu.taken()}


if __name__ == "__main__":
    function: Callable[..., dict[str, Any]] = globals()[sys.argv[1]]
    print(json.dumps(function(**json.loads(sys.argv[2]))))

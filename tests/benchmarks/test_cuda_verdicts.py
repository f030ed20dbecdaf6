"""What is made of a GPU's records, and how the check for one judges what it found; figures are made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda import speed
from benchmarks.cuda.checks import Verdict, passed, verdicts
from benchmarks.cuda.plan import Plan
from benchmarks.cuda.table import report
from benchmarks.cuda.transfers import optimised, summed
from benchmarks.sizes import subject

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
PLAN = Plan(
    subject=subject("paligemma", "3b", 224),
    device="cuda",
    compared=("fp32", "bf16", "fp16"),
    timed=("bf16", "int4-bf16"),
    batches=(1, 8),
    rounds=1,
    requests=1,
    tokens=8,
    scenes=1,
    short_requests=1000,
    budget_s=480.0,
)


# What a step is made of.


def test_copies_of_a_trace() -> None:
    """Two steps, with 4 bytes of scores each."""
    events: list[dict[str, Any]] = [
        {"ph": "X", "cat": "kernel", "name": "gemm", "dur": 30},
        {"ph": "X", "cat": "kernel", "name": "gemm", "dur": 50},
        {"ph": "X", "cat": "kernel", "name": "norm", "dur": 4},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 8}},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)", "args": {"bytes": 32}},
        {"ph": "i", "cat": "kernel", "name": "mark"},
    ]
    found = summed(events, 2, 4)
    assert found["seen"] is True
    assert (found["to_host_bytes"], found["to_device_bytes"], found["on_device_bytes"]) == (4, 16, 0)
    assert (found["kernels"], found["kernels_s"]) == (1.5, pytest.approx(42e-6))
    assert found["longest"][0] == {"kernel": "gemm", "times": 1.0, "s": pytest.approx(40e-6)}
    assert summed(events[:3], 2, 4)["seen"] is False  # not even the scores: nothing can be told


def test_the_graph_as_the_engine_runs_it(bundle: Folders) -> None:
    model = optimised(bundle(CASE) / "decode.onnx", "cpu")
    assert len(model.graph.node) > 20
    assert not any("Memcpy" in node.op_type for node in model.graph.node)


# Verdicts.


def documented() -> dict[str, Any]:
    """A run in which all is as promised, in figures that are easily compared."""

    def agreed(share: float) -> dict[str, Any]:
        found = {"tokens": 1000, "agreed": round(1000 * share), "share": share, "ties": 3}
        return found | {"answers": 100, "whole_answers": 90}

    def contender(token_s: float, first_s: float, size: int | None) -> dict[str, Any]:
        figures = {"token_s_1": token_s, "time_to_first_token_s_1": first_s}
        none = {"starts": [3.0], "rounds": [figures], "failure": None, "tool": None}
        return {"decoder_bytes": size, "medians": figures, **none}

    parts = ("correctness", "refusals", "growth", "copies", "bandwidth", "speed")
    moved = {"to_host_bytes": 1000.0, "to_device_bytes": 16.0, "scores_bytes": 1000, "cache_bytes": 10_000}
    return {
        "parts": {name: {"state": "done", "seconds": 1.0, "why": None} for name in parts},
        "correctness": {
            "golden": {"answers": 32, "kept": 32},
            "precisions": {"fp32": agreed(1.0), "bf16": agreed(0.99), "fp16": agreed(0.5)},
        },
        "refusals": {"tried": [{"what": "--device cuda:99", "code": 4, "expected": 4, "said": "no GPU 99"}]},
        "growth": {"requests": 1000, "first_bytes": 10**8, "last_bytes": 10**8 + 2**21},
        "copies": {"nodes": {"nodes": 90, "copying_nodes": 0}, "step": {"seen": True, **moved}},
        "bandwidth": {
            "bytes": 4e9,
            "sum_bytes_per_s": 2e12,
            "copy_bytes_per_s": 1e12,
            "read_bytes_per_s": 2e12,
        },
        "speed": {
            "contenders": {
                "bf16": contender(0.004, 0.0699, 5 * 10**9),
                speed.EAGER: contender(0.012, 0.1, None),
                "int4-bf16": contender(0.002, 0.05, 10**9),
            },
            "profiles": {"bf16": {"seen": True, "rows": 1, "kernels": 200.0, "kernels_s": 0.003}},
        },
    }


def judged(document: Mapping[str, Any], plan: Plan = PLAN) -> dict[str, Verdict]:
    return {one.what: one for one in verdicts(document, plan)}


def test_verdicts_at_their_limits() -> None:
    found = judged(documented())
    reached = {what: one.reached for what, one in found.items()}
    assert reached == {
        "fp32 on the CPU: golden answers": True,
        "fp32 on cuda: tokens of fp32 on the CPU": True,
        "bf16 on cuda: tokens of fp32 on the CPU": True,
        "fp16 on cuda: tokens of fp32 on the CPU": None,  # reported only
        "what cannot be had": True,
        "device memory over short requests": True,
        "cache copied between machine and GPU": True,
        "bf16: a token beside reading its weights": True,  # 1.6 x
        "int4-bf16: a token beside reading its weights": False,  # 4 x
        "bf16: tokens a second beside torch eager": True,  # 3 x
        "bf16: time to the first token beside torch eager": True,  # 0.7 x
    }
    assert passed(list(found.values()))
    said, beside = report(documented(), PLAN, list(found.values())), "a token beside reading its weights"
    for words in (
        f"| bf16: {beside} | 1.60 x: 4.00 ms, floor 2.50 ms | at most 1.6 x | reached |",
        f"| int4-bf16: {beside} | 4.00 x: 2.00 ms, floor 0.50 ms | at most 1.6 x | missed |",
        "| token at batch 1, ms | 4.000 (3.00x) | 12.000 | 2.000 (6.00x) |",
        "bf16: 200 kernels a step, 3.000 ms in them, 5.0 us of a token a kernel besides.",
        "correctness: done, 1 s",
    ):
        assert words in said.splitlines(), said


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("correctness", "golden", "kept"), 31, "fp32 on the CPU: golden answers"),
        (("correctness", "precisions", "fp32", "agreed"), 999, "fp32 on cuda: tokens of fp32 on the CPU"),
        (("correctness", "precisions", "bf16", "agreed"), 989, "bf16 on cuda: tokens of fp32 on the CPU"),
        (("refusals", "tried", 0, "code"), 1, "what cannot be had"),
        (("refusals", "tried", 0, "said"), "Traceback (most recent call last)", "what cannot be had"),
        (("growth", "last_bytes"), 10**8 + 2**21 + 1, "device memory over short requests"),
        (("copies", "nodes", "copying_nodes"), 1, "cache copied between machine and GPU"),
        (("copies", "step", "to_host_bytes"), 2000.0, "cache copied between machine and GPU"),
    ],
)
def test_what_makes_a_run_fail(place: tuple[str | int, ...], value: object, what: str) -> None:
    document: Any = documented()
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    found = judged(document)
    assert found[what].reached is False
    assert not passed(list(found.values()))


def test_what_speed_misses_does_not_fail() -> None:
    document = documented()
    document["speed"]["contenders"]["bf16"]["medians"] = {
        "token_s_1": 0.0041,
        "time_to_first_token_s_1": 0.071,
    }
    found = judged(document)
    missed = {what for what, one in found.items() if one.reached is False}
    assert missed == {
        "bf16: a token beside reading its weights",
        "int4-bf16: a token beside reading its weights",
        "bf16: tokens a second beside torch eager",
        "bf16: time to the first token beside torch eager",
    }
    assert passed(list(found.values()))


def test_what_is_not_known_says_why() -> None:
    document = documented()
    document["copies"]["step"] = {"seen": False, "why": "torch has no CUDA here"}
    document["speed"]["contenders"][speed.EAGER]["failure"] = "out of memory"
    document["speed"]["contenders"][speed.EAGER]["medians"] = {}
    document["parts"]["growth"] = {"state": "skipped", "seconds": 0.0, "why": "it needs about 15 s"}
    del document["growth"]
    found = judged(document)
    copied = found["cache copied between machine and GPU"]
    assert copied.reached is True  # by the graph
    assert "bytes cannot be told: torch has no CUDA here" in copied.found
    assert found["bf16: tokens a second beside torch eager"].found == "out of memory"
    grown = found["device memory over short requests"]
    assert (grown.reached, grown.found) == (None, "growth skipped: it needs about 15 s")
    assert not passed(list(found.values()))
    nothing = judged({"parts": {}})
    assert all(one.reached is None for one in nothing.values())
    assert report({"parts": {}}, PLAN, list(nothing.values())).startswith("nothing was timed")


def test_a_cpu_promises_nothing_of_a_gpu() -> None:
    found = judged(documented(), replace(PLAN, device="cpu"))
    assert not {what for what in found if "device memory" in what or "copied" in what}

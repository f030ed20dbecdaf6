"""What was promised beside what was found: reached, missed, or not known and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..lower_bounds import decode_floor_s
from ..report import ratio
from .costs import named
from .plan import EXACT, Plan
from .speed import EAGER

AGREED = 0.99  # of bf16's tokens
TIMES_FLOOR = 1.6  # a token of one picture beside reading its weights once
TIMES_TORCH = 3.0  # as many tokens a second as torch eager
FIRST_TOKEN = 0.7  # of torch eager's time to the first token
GRAIN = 2 << 20  # bytes that a driver gives and takes at once
SHARE_OF_CACHE = 0.01  # of a cache's bytes; what else passes in a step is ids and lengths

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One line."""

    what: str
    found: str
    target: str
    reached: bool | None  # None: not known
    counts: bool  # whether the run fails where this is not reached


def verdicts(document: Document, plan: Plan) -> list[Verdict]:
    """Every promise, from all that is known."""
    found = [*_correctness(document, plan), _refusals(document)]
    if plan.kind == "cuda":
        found += [_growth(document), _copies(document)]
    return [*found, *_speed(document, plan)]


def passed(found: list[Verdict]) -> bool:
    """Whether everything that counts was reached."""
    return all(one.reached is True for one in found if one.counts)


def unknown(document: Document, *parts: str) -> str:
    """Why something was not found."""
    for part in parts:
        course = document.get("parts", {}).get(part, {"state": "skipped", "why": "it was not begun"})
        if course["state"] != "done":
            return f"{part} {course['state']}: {course['why'] or 'time was up'}"
    return "not measured"


def _correctness(document: Document, plan: Plan) -> Iterator[Verdict]:
    part = document.get("correctness", {})
    why = unknown(document, "correctness")
    golden = part.get("golden")
    yield Verdict(
        "fp32 on the CPU: golden answers",
        f"{golden['kept']} of {golden['answers']}" if golden else why,
        "all",
        golden["kept"] == golden["answers"] if golden else None,
        counts=True,
    )
    for precision in plan.compared:
        one = part.get("precisions", {}).get(precision)
        target = {EXACT: 1.0, "bf16": AGREED}.get(precision)
        counts = target is not None
        what = f"{precision} on {plan.device}: tokens of fp32 on the CPU"
        said = "reported" if target is None else "all" if target == 1 else f"at least {target:.0%}"
        if one is None or "failure" in one:
            yield Verdict(what, why if one is None else one["failure"], said, None, counts)
            continue
        shown = (
            f"{one['share']:.2%}, {one['agreed']:,} of {one['tokens']:,}, {one['ties']} others are ties; "
            f"{one['whole_answers']:,} of {one['answers']:,} answers whole"
        )
        reached = None if target is None else one["agreed"] >= target * one["tokens"]
        yield Verdict(what, shown, said, reached, counts)


def _refusals(document: Document) -> Verdict:
    tried, target = document.get("refusals", {}).get("tried", []), "exit codes 4 and 5, and the next answer"
    course = document.get("parts", {}).get("refusals", {})
    wrong = [
        f"{one['what']}: code {one['code']}, expected {one['expected']}"
        for one in tried
        if one["code"] != one["expected"] or "Traceback" in one["said"]
    ]
    if wrong or course.get("state") != "done":
        shown = "; ".join(wrong) or unknown(document, "refusals")
        return Verdict("what cannot be had", shown, target, False if wrong else None, counts=True)
    shown = f"{len(tried)} tried, all as said"
    return Verdict("what cannot be had", shown, target, reached=True, counts=True)


def _growth(document: Document) -> Verdict:
    part, what = document.get("growth"), "device memory over short requests"
    target = f"level within {GRAIN / 1e6:.0f} MB"
    if part is None:
        return Verdict(what, unknown(document, "growth"), target, None, counts=True)
    first, last = part["first_bytes"], part["last_bytes"]
    shown = f"{first / 1e6:.1f} MB at first, {last / 1e6:.1f} MB behind {part['requests']:,}"
    return Verdict(what, shown, target, last - first <= GRAIN, counts=True)


def _copies(document: Document) -> Verdict:
    """A node that copies is a miss; bytes are told where the GPU's records reach us."""
    part, what, target = document.get("copies"), "cache copied between machine and GPU", "never"
    if part is None:
        return Verdict(what, unknown(document, "copies"), target, None, counts=True)
    nodes, step = part["nodes"]["copying_nodes"], part.get("step")
    told = f"{nodes} copying nodes among {part['nodes']['nodes']} of a step"
    if step is None or not step["seen"]:
        why = unknown(document, "copies") if step is None else step["why"]
        return Verdict(what, f"{told}; bytes cannot be told: {why}", target, nodes == 0, counts=True)
    moved = max(0.0, step["to_host_bytes"] - step["scores_bytes"]) + step["to_device_bytes"]
    told = f"{told}; {moved:,.0f} bytes beside scores, the cache has {step['cache_bytes']:,}"
    reached = nodes == 0 and moved <= SHARE_OF_CACHE * step["cache_bytes"]
    return Verdict(what, told, target, reached, counts=True)


def _speed(document: Document, plan: Plan) -> Iterator[Verdict]:
    contenders = document.get("speed", {}).get("contenders", {})
    rate = document.get("bandwidth", {}).get("read_bytes_per_s")
    token, first = named("token_s", 1), named("time_to_first_token_s", 1)
    for precision in plan.timed:
        one = contenders.get(precision, {})
        step, size = one.get("medians", {}).get(token), one.get("decoder_bytes")
        if step and size and rate:
            floor = decode_floor_s(size, rate)
            times = step / floor
            shown = f"{times:.2f} x: {1e3 * step:.2f} ms, floor {1e3 * floor:.2f} ms"
        else:
            times = None
            shown = one.get("failure") or unknown(document, "speed", "bandwidth")
        yield _compared(f"{precision}: a token beside reading its weights", shown, TIMES_FLOOR, times)
    ours, theirs = plan.timed[0], EAGER
    for what, figure, target, faster in (
        ("tokens a second", token, TIMES_TORCH, True),
        ("time to the first token", first, FIRST_TOKEN, False),
    ):
        mine, other = (contenders.get(name, {}).get("medians", {}).get(figure) for name in (ours, theirs))
        found = ratio(mine, other, "less" if faster else "more")
        failures = [contenders.get(name, {}).get("failure") for name in (ours, theirs)]
        why = next(filter(None, failures), None) or unknown(document, "speed")
        shown = why if found is None else f"{found:.2f} x: {1e3 * mine:.2f} ms and {1e3 * other:.2f} ms"
        yield _compared(f"{ours}: {what} beside {theirs}", shown, target, found, more=faster)


def _compared(what: str, shown: str, target: float, found: float | None, *, more: bool = False) -> Verdict:
    side = "at least" if more else "at most"
    reached = None if found is None else found >= target if more else found <= target
    return Verdict(what, shown, f"{side} {target:g} x", reached, counts=False)

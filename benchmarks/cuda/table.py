"""What was found, for a person: figures by contender, then promises with their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..report import Row, made, over, start, typical
from ..report import table as columns
from ..results import Result
from .checks import Verdict
from .costs import LOAD, named, taken
from .plan import Plan
from .speed import COMPILED, EAGER

GB = 1e9  # bytes
MS = 1e3  # in a second


def rows(plan: Plan, read_bytes_per_s: float | None) -> Iterator[Row]:
    """Every figure of the contenders."""
    yield Row("bundle, GB", made(lambda export: export.bytes / GB), ".2f")
    yield Row("exported in, s", made(lambda export: export.seconds), ".0f")
    yield Row("start of a process, s", start(0), ".1f", "less")
    yield Row("load, s", typical(LOAD), ".2f", "less")
    yield Row("compiled in, s", typical("compile_s_1"), ".0f")
    yield Row("device memory, loaded, GB", _scaled(taken(0), 1 / GB), ".2f", "less")
    for size in plan.batches:
        behind = f"at batch {size}"
        yield Row(f"device memory {behind}, GB", _scaled(taken(size), 1 / GB), ".2f", "less")
        yield Row(f"vision, a picture {behind}, ms", _scaled(named("vision_s", size), MS), ".2f", "less")
        yield Row(f"prefill {behind}, ms", _scaled(named("prefill_s", size), MS), ".2f", "less")
        first = _scaled(named("time_to_first_token_s", size), MS)
        yield Row(f"first token {behind}, ms", first, ".1f", "less")
        yield Row(f"token {behind}, ms", _scaled(named("token_s", size), MS), ".3f", "less")
        yield Row(f"images a minute {behind}", typical(named("images_per_minute", size)), ".0f", "more")
    if read_bytes_per_s is not None:
        rate = read_bytes_per_s

        def floor(result: Result) -> float | None:
            return None if result.decoder_bytes is None else MS * result.decoder_bytes / rate

        token = _scaled(named("token_s", 1), MS)
        yield Row("floor of a token, ms", floor, ".3f")
        yield Row("token over its floor", lambda result: over(token(result), floor(result)), ".2f")


def _scaled(figure: str, times: float) -> Any:
    def value(result: Result) -> float | None:
        found = result.typical(figure)
        return None if found is None else found * times

    return value


def figures(document: Mapping[str, Any], plan: Plan) -> str:
    """All contenders side by side."""
    results = {}
    for part in ("speed", "compiled"):
        for name, one in document.get(part, {}).get("contenders", {}).items():
            shown = f"{name}, beside it" if name in results else name
            results[shown] = result_of(shown, one)
    if not results:
        return "nothing was timed"
    rate = document.get("bandwidth", {}).get("read_bytes_per_s")
    against = EAGER if EAGER in results else COMPILED
    tools = [f"\n{one.name}: {one.tool}." for one in results.values() if one.tool is not None]
    return columns(results, list(rows(plan, rate)), None, against) + "".join(tools)


def result_of(name: str, one: Mapping[str, Any]) -> Result:
    """What JSON holds of a contender, less what no row shows."""
    return Result(
        name,
        starts=one["starts"],
        rounds=one["rounds"],
        decoder_bytes=one["decoder_bytes"],
        failure=one["failure"],
        tool=one["tool"],
    )


def profile_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Where a step's time goes, where the GPU tells."""
    for name, one in document.get("speed", {}).get("profiles", {}).items():
        token = document["speed"]["contenders"][name]["medians"].get(named("token_s", one.get("rows", 1)))
        if not one["seen"]:
            yield f"{name}: kernels cannot be told: {one['why']}."
            continue
        idle = None if token is None else ratio_left(token, one["kernels_s"], one["kernels"])
        beside = "" if idle is None else f", {1e6 * idle:.1f} us of a token a kernel besides"
        yield f"{name}: {one['kernels']:.0f} kernels a step, {MS * one['kernels_s']:.3f} ms in them{beside}."


def ratio_left(token_s: float, kernels_s: float, kernels: float) -> float | None:
    """Seconds of a token outside its kernels, for each of them."""
    return (token_s - kernels_s) / kernels if kernels else None


def promises(found: Sequence[Verdict]) -> str:
    """Markdown."""
    said = {True: "reached", False: "missed", None: "not known"}
    lines = ["| promise | found | target | |", "|---|---|---|---|"]
    for one in found:
        verdict = "-" if one.target == "reported" else said[one.reached]
        lines.append(f"| {one.what} | {one.found} | {one.target} | {verdict} |")
    return "\n".join(lines)


def report(document: Mapping[str, Any], plan: Plan, found: Sequence[Verdict]) -> str:
    """Everything."""
    parts = [
        f"{name}: {one['state']}, {one['why'] or format(one['seconds'], '.0f') + ' s'}"
        for name, one in document.get("parts", {}).items()
    ]
    rate = document.get("bandwidth")
    floor = [] if rate is None else [bandwidth_line(rate)]
    return "\n".join(
        [figures(document, plan), "", *floor, *profile_lines(document), "", promises(found), "", *parts]
    )


def bandwidth_line(rate: Mapping[str, float]) -> str:
    """How fast memory is read."""
    return (
        f"Memory: a sum over {rate['bytes'] / GB:.1f} GB reads {rate['sum_bytes_per_s'] / GB:.0f} GB/s, "
        f"a copy moves {rate['copy_bytes_per_s'] / GB:.0f} GB/s; floors take the faster."
    )

"""Write the tables of docs/runtimes.md from stored results of `paligemma-onnx conformance --json`.

paligemma-onnx conformance BUNDLE --json > benchmarks/measured/conformance/PRECISION.json
python -m benchmarks.conformance_tables
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "measured" / "conformance"
PAGE = Path(__file__).parents[1] / "docs" / "runtimes.md"
BEGIN, END = "<!-- tables of benchmarks.conformance_tables -->\n", "<!-- end of the tables -->\n"
ORDER = ("fp32", "int8", "int4", "int4-compact", "int4-portable")  # columns; others follow by name


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the stored results, one per precision.

    Results of the same bundle are merged: a slow runtime may be measured alone, with fewer prompts. Each
    runtime gets the key `requests`, the number of answers that were compared.
    """
    merged = dict[str, dict[str, Any]]()
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        for runtime in result["runtimes"]:
            runtime["requests"] = len(result["requests"])
        if same := merged.get(result["bundle_id"]):
            same["runtimes"] += result["runtimes"]
        else:
            merged[result["bundle_id"]] = result
    return sorted(merged.values(), key=lambda result: (*(result["precision"] != name for name in ORDER),))


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Return the tables of errors and seconds in Markdown."""
    return "\n".join(_lines(results)) + "\n"


def updated(page: str, content: str) -> str:
    """Return a page with `content` between the two comments.

    Raises:
        ValueError: the page lacks the comments.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def _lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    first = results[0]
    names = list(dict.fromkeys(each["name"] for result in results for each in result["runtimes"]))
    precisions = [result["precision"] for result in results]
    yield (
        f"Reference: {first['reference']}. Each cell has the largest error of all graphs and steps, and how "
        "many answers have equal ids. If graphs do not run, it names them and the missing operators, and has "
        "the largest error of the others."
    )
    yield ""
    yield f"| runtime | version | {' | '.join(f'`{name}`' for name in precisions)} |"
    yield "|---|---|" + "---|" * len(precisions)
    for name in names:
        runs = [_runtime(result, name) for result in results]
        version = next((run["version"] for run in runs if run and run["version"]), "")
        cells = [_cell(run) for run in runs]
        yield f"| `{name}` | {version} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"Seconds to open all graphs, and seconds of one decode step, on {first['system']} with other load. "
        "They show the order of magnitude:"
    )
    yield ""
    yield f"| runtime | {' | '.join(f'`{name}`' for name in precisions)} |"
    yield "|---|" + "---|" * len(precisions)
    for name in names:
        yield f"| `{name}` | {' | '.join(_seconds(_runtime(result, name)) for result in results)} |"


def _runtime(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((each for each in result["runtimes"] if each["name"] == name), None)


def _cell(run: dict[str, Any] | None) -> str:
    if run is None or run["outcome"] == "not installed":
        return "not measured"
    if run["problem"]:
        return "does not start"
    failed = [graph for graph in run["graphs"] if graph["problem"]]
    if failed:
        operators = dict.fromkeys(name for graph in failed for name in graph["missing_operators"])
        graphs = ", ".join(graph["graph"] for graph in failed)
        others = f"; others {_worst(run)}" if len(failed) < len(run["graphs"]) else ""
        return f"no: {graphs} ({', '.join(operators) or 'see the message'}){others}"
    above = " (above the limit)" if run["outcome"] == "differs" else ""
    return f"{_worst(run)}, {run['equal_ids']}/{run['requests']}{above}"


def _worst(run: dict[str, Any]) -> str:
    """Return the largest error of the graphs that run."""
    errors = [
        error["relative"] for graph in run["graphs"] for error in graph["errors"] if not graph["problem"]
    ]
    return "NaN" if None in errors else f"{max(errors):.1e}"


def _seconds(run: dict[str, Any] | None) -> str:
    if run is None or not run["graphs"] or any(graph["problem"] for graph in run["graphs"]):
        return "-"
    step = next(graph["run_s"] for graph in run["graphs"] if graph["graph"] == "decode")
    return f"{sum(graph['open_s'] for graph in run['graphs']):.2f}, {step:.3f}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), tables(read_results())), encoding="utf-8")

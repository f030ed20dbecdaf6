"""Write the tables of docs/runtimes.md from stored results of `paligemma-onnx conformance --json`.

paligemma-onnx conformance BUNDLE --json > benchmarks/measured/conformance/PRECISION.json
paligemma-onnx conformance FOLDER --dtype DTYPE --json > benchmarks/measured/conformance/LAYOUT-DTYPE.json
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
# Columns; others follow by name.
ORDER = ("fp32", "fp16", "int8", "int4", "int4-compact", "int4-portable", "q8", "q4")
LAYOUTS = {  # captions of the tables
    "bundle": "Bundles, by `--precision`",
    "transformers.js": "The layout for transformers.js, by `--dtype`",
    "genai": "The layout for onnxruntime-genai, by `--dtype`",
}
STEP_GRAPHS = ("decode", "decoder")  # the graph of a bundle and that of a layout which add a token


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the stored results, one per layout and precision.

    Results of the same graphs are merged: a slow runtime may be measured alone, with fewer prompts. Each
    runtime gets the key `requests`, the number of answers that were compared.
    """
    merged = dict[tuple[str, str], dict[str, Any]]()
    for file in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        result = json.loads(file.read_text(encoding="utf-8"))
        for runtime in result["runtimes"]:
            runtime["requests"] = len(result["requests"])
        key = result["bundle_id"], result["precision"]
        if same := merged.get(key):
            same["runtimes"] += result["runtimes"]
        else:
            merged[key] = result
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
    groups = [[each for each in results if each["layout"] == layout] for layout in LAYOUTS]
    yield (
        f"Reference: {first['reference']}. Each cell has the largest error of all graphs and steps, and how "
        "many answers have equal ids. If graphs do not run, it names them and the missing operators, and has "
        "the largest error of the others."
    )
    for group in filter(None, groups):
        yield from _errors(group)
    yield ""
    yield (
        f"Seconds to open all graphs, and seconds of one decode step, on {first['system']} with other load. "
        "They show the order of magnitude."
    )
    for group in filter(None, groups):
        yield from _times(group)


def _errors(group: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from ("", f"{LAYOUTS[group[0]['layout']]}:", "")
    yield f"| runtime | version | {_columns(group)} |"
    yield "|---|---|" + "---|" * len(group)
    for name in _names(group):
        runs = [_runtime(result, name) for result in group]
        version = next((run["version"] for run in runs if run and run["version"]), "")
        yield f"| `{name}` | {version} | {' | '.join(map(_cell, runs))} |"


def _times(group: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from ("", f"{LAYOUTS[group[0]['layout']]}:", "")
    yield f"| runtime | {_columns(group)} |"
    yield "|---|" + "---|" * len(group)
    for name in _names(group):
        yield f"| `{name}` | {' | '.join(_seconds(_runtime(result, name)) for result in group)} |"


def _columns(group: Sequence[dict[str, Any]]) -> str:
    return " | ".join(f"`{result['precision']}`" for result in group)


def _names(group: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(each["name"] for result in group for each in result["runtimes"]))


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
    step = next(graph["run_s"] for graph in run["graphs"] if graph["graph"] in STEP_GRAPHS)
    return f"{sum(graph['open_s'] for graph in run['graphs']):.2f}, {step:.3f}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), tables(read_results())), encoding="utf-8")

"""The tables of docs/runtimes.md, compared with the stored results."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from benchmarks.conformance_tables import PAGE, RESULTS, read_results, tables, updated
from paligemma_onnx.runtime.conformance.adapters import ADAPTERS


def test_the_page_shows_the_stored_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    results = read_results()
    assert page == updated(page, tables(results)), "run `python -m benchmarks.conformance_tables`"
    for result in results:
        assert {runtime["name"] for runtime in result["runtimes"]} <= {each.name for each in ADAPTERS}
        assert all(runtime["version"] for runtime in result["runtimes"])


def test_differences_failures_and_gaps_are_shown() -> None:
    result = copy.deepcopy(next(each for each in read_results() if each["layout"] == "bundle"))
    first, second, third, fourth, *_ = result["runtimes"]
    first["graphs"][0]["errors"][0]["relative"] = None
    first["outcome"] = "differs"
    second["graphs"][1] |= {"problem": "no kernel", "missing_operators": ["Gelu"], "errors": []}
    second["graphs"][0]["errors"][0]["relative"] = 0.028
    third |= {"outcome": "not installed", "graphs": []}
    fourth["problem"] = "no device"
    lines = {line.split(" | ")[0]: line for line in tables([result]).splitlines()[:14]}
    assert "NaN, 4/4 (above the limit)" in lines[f"| `{first['name']}`"]
    assert "no: prefill (Gelu); others 2.8e-02" in lines[f"| `{second['name']}`"]
    assert "not measured" in lines[f"| `{third['name']}`"]
    assert "does not start" in lines[f"| `{fourth['name']}`"]


def test_results_of_a_bundle_are_merged(tmp_path: Path) -> None:
    whole = json.loads((RESULTS / "fp32.json").read_text(encoding="utf-8"))
    *others, last = whole["runtimes"]
    last["equal_ids"] = 1
    alone = whole | {"runtimes": [last], "requests": whole["requests"][:1]}
    (tmp_path / "alone.json").write_text(json.dumps(alone), encoding="utf-8")
    (tmp_path / "others.json").write_text(json.dumps(whole | {"runtimes": others}), encoding="utf-8")
    (merged,) = read_results(tmp_path)
    assert {each["name"] for each in merged["runtimes"]} == {each.name for each in ADAPTERS}
    lines = {line.split(" | ")[0]: line for line in tables([merged]).splitlines()[:14]}
    assert "1/1" in lines[f"| `{last['name']}`"]
    assert "4/4" in lines[f"| `{others[0]['name']}`"]


def test_a_page_without_the_comments_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        updated("# Other runtimes\n", "table")

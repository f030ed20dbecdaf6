"""`validate --json` prints JSON that validation.schema.json describes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from paths import ROOT
from report_schema import SCHEMA, reject_constant
from sample_report_data import broken_report_data, sample_report_data

from paligemma_onnx.export.report.json_report import SCHEMA_VERSION, to_json
from paligemma_onnx.export.report.report_data import ReportData

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
REQUIRED = {
    *("schema_version", "passed", "bundle_id", "precision", "reference", "device", "rows", "steps"),
    *("weights", "comparison"),
}


def parsed(report: ReportData) -> Any:
    return json.loads(to_json(report), parse_constant=reject_constant)


def short() -> Any:
    """Return a report with every key and one difference."""
    data = parsed(broken_report_data())
    del data["comparison"]["differences"][1:], data["comparison"]["agreements"][1:]
    return data


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key, without indices of lists."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, key)
            yield from keys(entry, (*path, key))
    elif isinstance(value, list):
        for entry in value:
            yield from keys(entry, path)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


@pytest.mark.parametrize(
    "make_report", [sample_report_data, lambda: sample_report_data(precision="int4"), broken_report_data]
)
def test_every_validation_fits(make_report: Callable[[], ReportData]) -> None:
    data = parsed(make_report())
    VALIDATOR.validate(data)
    assert data.keys() >= REQUIRED
    assert data["passed"] == (data["problem"] is None)


def test_what_is_no_number_is_null() -> None:
    differences = parsed(broken_report_data())["comparison"]["differences"]
    assert {difference["relative"] for difference in differences} >= {None, 0.0, 3.0}
    differences = parsed(sample_report_data(precision="int4"))["comparison"]["differences"]
    assert {difference["limits"]["worst"] for difference in differences} == {None, 1e-4}


@pytest.mark.parametrize("path", sorted(set(keys(short()))), ids=".".join)
def test_every_key_is_described(path: tuple[str, ...]) -> None:
    """A report without a key, or with another name for it, is not valid; names of files are arbitrary."""
    if path[:-1] in (("files",), ("versions",), ("precision_facts", "matrices")):
        return
    for renamed in (False, True):
        data = short()
        for holder in holders(data, path[:-1]):
            if path[-1] in holder:
                value = holder.pop(path[-1])
                if renamed:
                    holder["another"] = value
        assert not VALIDATOR.is_valid(data)


def holders(value: Any, path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for entry in value:
            yield from holders(entry, path)
    elif isinstance(value, dict):
        if not path:
            yield value
        elif path[0] in value:
            yield from holders(value[path[0]], path[1:])


def test_the_page_of_the_documentation_names_every_key() -> None:
    missing = [name for name in SCHEMA["properties"] if f"`{name}`" not in PAGE]
    assert missing == []

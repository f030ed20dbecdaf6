"""What `validate --json` prints is what validation.schema.json says, and is JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from paths import ROOT
from report_schema import SCHEMA, reject_constant
from sample_findings import broken, findings

from paligemma_onnx.export.report.findings import ReportData
from paligemma_onnx.export.report.json_report import SCHEMA_VERSION, as_json

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PAGE = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
KEPT = {
    *("schema_version", "passed", "bundle_id", "precision", "reference", "device", "rows", "steps"),
    *("weights", "comparison"),
}


def parsed(told: ReportData) -> Any:
    return json.loads(as_json(told), parse_constant=reject_constant)


def short() -> Any:
    """A validation with every key and one difference."""
    data = parsed(broken())
    del data["comparison"]["differences"][1:], data["comparison"]["agreements"][1:]
    return data


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, lists aside."""
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


@pytest.mark.parametrize("made", [findings, lambda: findings(exact=False), broken])
def test_every_validation_fits(made: Callable[[], ReportData]) -> None:
    data = parsed(made())
    VALIDATOR.validate(data)
    assert data.keys() >= KEPT
    assert data["passed"] == (data["problem"] is None)


def test_what_is_no_number_is_null() -> None:
    whole = parsed(broken())["comparison"]
    assert {difference["relative"] for difference in whole["differences"]} >= {None, 0.0, 3.0}
    assert {one["limits"]["worst"] for one in parsed(findings(exact=False))["comparison"]["differences"]} == {
        None
    }


@pytest.mark.parametrize("path", sorted(set(keys(short()))), ids=".".join)
def test_every_key_is_described(path: tuple[str, ...]) -> None:
    """Without it, or with another name for it, a validation does not fit. Names of files are free."""
    if path[:-1] in (("files",), ("versions",), ("recipe", "matrices")):
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

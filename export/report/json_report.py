"""The validation report as JSON; validation.schema.json in this folder describes each key."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from .report_data import ReportData

SCHEMA_VERSION = 2  # increased when a key is removed or changes its meaning
# Keys that replace the names of fields; None omits the field.
_KEYS = {"mask_tokens": "codes", "positions": None}


def to_json(data: ReportData) -> str:
    """Return a report as a JSON object whose top level contains the fields of the validation."""
    fields = asdict(data, dict_factory=_rename_fields)
    report = {
        "schema_version": SCHEMA_VERSION,
        "passed": data.validation.passed,
        **fields.pop("validation"),
        **fields,
    }
    return json.dumps(_replace_not_finite(report), allow_nan=False)


def _rename_fields(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for name, value in items if (key := _KEYS.get(name, name)) is not None}


def _replace_not_finite(value: object) -> object:
    """Return a value with None in place of NaN and infinity, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _replace_not_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_not_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

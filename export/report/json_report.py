"""A validation as JSON, for machines; validation.schema.json beside this file says what each key means."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from .findings import ReportData

SCHEMA_VERSION = 2  # of the schema; another one when a key goes or changes its meaning


def as_json(findings: ReportData) -> str:
    """One object, as validation.schema.json describes it: the validation's own fields among the others."""
    data = asdict(findings)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "passed": findings.validation.passed,
        **data.pop("validation"),
        **data,
    }
    return json.dumps(_finite(whole), allow_nan=False)


def _finite(value: object) -> object:
    """Null for what is no finite number, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The JSON schema of validation reports, and a parser hook that refuses NaN and infinity."""

from __future__ import annotations

import json

from paths import ROOT

SCHEMA = json.loads((ROOT / "export" / "report" / "validation.schema.json").read_text(encoding="utf-8"))


def refuse(token: str) -> None:
    """Raise AssertionError; `parse_constant` of `json.loads` calls it for NaN and infinity."""
    raise AssertionError(f"{token} is not JSON")

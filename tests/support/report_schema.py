"""The JSON schema of validation reports, and a `json.loads` hook that rejects NaN and infinity."""

from __future__ import annotations

import json

from paths import ROOT

SCHEMA = json.loads((ROOT / "export" / "report" / "validation.schema.json").read_text(encoding="utf-8"))


def reject_constant(token: str) -> None:
    """Raise AssertionError; pass it to `json.loads` as `parse_constant`."""
    raise AssertionError(f"{token} is not JSON")

"""Folders and files of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SCENE = ROOT / "export" / "demo" / "scene.png"

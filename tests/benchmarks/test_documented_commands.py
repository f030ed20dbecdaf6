"""Benchmark commands that README.md and docs/ name: each has a test that runs it."""

from __future__ import annotations

import re

from paths import ROOT

RUN_BY_TEST_COMMANDS = {
    *("real_size", "plot", "start", "peers", "batch", "batch_memory", "cuda"),
    *("token_scores", "forced_tokens"),
}
RUN_BY_WEB_TESTS = {"web_agreement", "web_memory", "web_speed"}  # they need Node


def test_every_documented_command_is_tested() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(r"python -m benchmarks\.(\w+)", page.read_text(encoding="utf-8"))
    }
    assert named == RUN_BY_TEST_COMMANDS | RUN_BY_WEB_TESTS

"""Runs of the JavaScript driver in Node: its compiled programs in web/tests/parity/."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from javascript import WEB, find_chromium
from paths import ROOT
from time_limits import HANG

COMPILED = ROOT / "web" / "build" / "tests" / "parity"


def run_parity(program: str, job: dict[str, Any], scratch: Path) -> Any:
    """Return the result of a program, which reads a job and writes its result as JSON files.

    `make test-web` compiles the programs before it runs the tests. The names of programs that open a page in
    Chromium begin with `page`; they skip the test if Chromium is not installed.
    """
    if program.startswith("page"):
        find_chromium()
    script = COMPILED / f"{program}.js"
    assert script.is_file(), f"{script} is missing: run npm run compile --prefix web"
    job_file, result_file = scratch / f"{program}.job.json", scratch / f"{program}.result.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    command = ["node", str(script), str(job_file), str(result_file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(result_file.read_text(encoding="utf-8"))


def open_page(site: Path, page: str) -> str:
    """Return what a page of a site writes into its <output>, in headless Chromium."""
    packages = WEB / "node_modules"
    folders = [packages / "@huggingface" / "transformers" / "node_modules", packages]
    job = {"folder": str(site), "page": page, "packages": [str(folder) for folder in folders]}
    text: str = run_parity("page_output", job, site)
    return text.strip()

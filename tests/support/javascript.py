"""Runs of transformers.js in Node and in Chromium; `make test-web` installs the packages."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from time_limits import HANG

WEB = ROOT / "tests" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class JsRequest:
    """A batch of prompts for transformers.js."""

    texts: list[str]  # one prompt per row, with one <image> for each image
    images: list[str]  # image files of all rows in order
    tokens: int  # number of ids to generate
    pixels: str | None = None  # file of float32 pixel values; None: transformers.js preprocesses the images


@dataclass(frozen=True)
class JsAnswer:
    """Ids and texts that transformers.js generated for a batch."""

    prompts: list[list[int]]  # ids of the prompts, padded on the left
    ids: list[list[int]]  # generated ids
    texts: list[str]


def write_pixels(path: Path, pixels: NDArray[np.float32]) -> str:
    """Write pixel values float32[M, 3, S, S] to a file and return its path."""
    pixels.astype("<f4").tofile(path)
    return str(path)


def run_transformers_js(
    folder: Path, requests: list[JsRequest], scratch: Path, dtype: str | None = None
) -> list[JsAnswer]:
    """Answer requests with the model in a folder; `dtype` None is the default of the folder."""
    job = scratch / "job.json"
    content: dict[str, Any] = {
        "folder": str(folder),
        "dtype": dtype,
        "requests": [asdict(request) for request in requests],
    }
    job.write_text(json.dumps(content), encoding="utf-8")
    command = ["node", "generate.mjs", str(job)]
    result = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    return [JsAnswer(**answer) for answer in json.loads(result.stdout.splitlines()[-1])]


def find_chromium() -> str:
    """Return the path of Chromium or Chrome; skip the test if neither is installed."""
    for name in BROWSERS:
        if program := which(name):
            return program
    pytest.skip("neither Chromium nor Chrome is installed")

"""Answers of the JavaScript driver, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from web_driver import run_parity


def web_request(
    images: list[Path],
    prompt: str,
    scratch: Path,
    *,
    task: str = "generate",
    forced: list[int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return a request for `web_answers`, whose decoded images are written to `scratch`.

    The options have the names of the JavaScript driver. `forced` are ids to compare the most likely ids with.
    """
    listed = []
    for path in images:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        file = scratch / f"{path.name}.rgb"
        file.write_bytes(pixels.tobytes())
        listed.append({"file": str(file), "width": pixels.shape[1], "height": pixels.shape[0]})
    return {"images": listed, "task": task, "prompt": prompt, "options": options, "forced": forced}


def web_answers(
    bundle: Path, requests: list[dict[str, Any]], scratch: Path, runtime: str = "onnxruntime-node"
) -> list[dict[str, Any]]:
    """Return the driver's answers to requests in order.

    Runtimes: `onnxruntime-node` or `onnxruntime-web` in Node; `chromium` (WebAssembly) or `webgpu` in a page.
    """
    program = "page_answers" if runtime in ("chromium", "webgpu") else "answers"
    job = {"bundle": str(bundle), "runtime": runtime, "requests": requests}
    answers: list[dict[str, Any]] = run_parity(program, job, scratch)
    return answers

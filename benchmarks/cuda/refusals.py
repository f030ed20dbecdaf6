"""What cannot be had is refused in words, with its exit code, and the process lives on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.errors import PaliGemmaError

from ..exports import COMMAND
from ..measured_process import ROOT, Contender, Running
from .prompts import golden
from .record import Budget, Found

ABSENT = "cuda:99"
NOT_THERE, TOO_LITTLE = 4, 5  # exit codes
MIB = 1 << 20  # bytes
TINY_LIMIT = 1 * MIB  # less than the weights of the model that ships
# Room for the weights of the model that ships and a request of one picture, not for one of many.
SMALL_LIMIT = 192 * MIB
MANY = 512  # pictures of a request, the same one: its cache alone takes more


class Refusals:
    """A bundle that is asked for too much; used in a process of its own."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder, self._device = Path(folder), device
        self._question = golden()[0]

    def too_little_memory(self) -> list[dict[str, Any]]:
        """Loading with a limit that is too small, then with one that a large request goes beyond."""
        found = [self._tried("load, too small a limit", lambda: self._load(TINY_LIMIT))]
        model = self._load(SMALL_LIMIT)
        found.append(self._tried("one request", lambda: self._ask(model, 1)))
        found.append(self._tried("a request too large", lambda: self._ask(model, MANY)))
        found.append(self._tried("one request behind it", lambda: self._ask(model, 1)))
        return found

    def _load(self, limit: int) -> PaliGemma:
        return PaliGemma.load(self._folder, device=self._device, memory_limit=limit)

    def _ask(self, model: PaliGemma, rows: int) -> object:
        request = Request(self._question.picture, self._question.prompt)
        return model.generate_batch([request] * rows, max_new_tokens=2)

    def _tried(self, what: str, work: Any) -> dict[str, Any]:
        try:
            work()
        except PaliGemmaError as error:
            return {"what": what, "code": error.exit_code, "said": str(error)}
        return {"what": what, "code": 0, "said": ""}


def refuse(folder: Path, device: str, logs: Path, budget: Budget) -> Iterator[Found]:
    """What happens, each beside what should.

    Raises:
        ContenderFailed: the process that should live on did not.
    """
    found: Found = {"tried": [command(folder, ABSENT, budget.left()) | {"expected": NOT_THERE}]}
    yield found
    if device == "cpu":
        return
    arguments = {"folder": str(folder), "device": device}
    contender = Contender("refusals", Refusals.__module__, "Refusals", arguments)
    with Running(contender, logs / "refusals.log", limit_s=budget.left()) as running:
        told = running.call("too_little_memory")
    for one, expected in zip(told, (TOO_LITTLE, 0, TOO_LITTLE, 0), strict=True):
        found["tried"].append(one | {"expected": expected})
    yield found


def command(folder: Path, device: str, limit_s: float) -> dict[str, Any]:
    """How `paligemma-onnx generate` ends on a device."""
    question = golden()[0]
    asked = ["--model", str(folder), "--image", str(question.picture), "--device", device, question.prompt]
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, "generate", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
    )
    return {"what": f"--device {device}", "code": ended.returncode, "said": ended.stderr.strip()}

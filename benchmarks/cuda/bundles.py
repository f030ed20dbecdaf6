"""Checkpoints and bundles, made in processes of their own while other things are found out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.runtime.engine.devices import available_threads

from ..checkpoint import make_checkpoint
from ..exports import Export, ExportFailed, make_bundle
from ..measured_process import Contender, Running
from ..sizes import Family, Size, subject
from .plan import EXACT, Plan
from .record import Budget

SHARE = 0.6  # of the budget, in which everything is to be made: the rest is for timing what is there
MOST_AT_ONCE = 8  # exports; each takes 2 GB of memory
Made = tuple[Path, Export]


class Drawing:
    """A random checkpoint, drawn where torch is fastest, in a process whose GPU memory goes with it."""

    def __init__(self, work: str, family: Family, size: Size, side: int, device: str) -> None:
        import torch  # noqa: PLC0415  the process that starts this one draws nothing

        where = device if torch.cuda.is_available() else "cpu"
        make_checkpoint(Path(work), subject(family, size, side), lambda _: None, device=where)


class Bundles:
    """Everything is begun at once, in the order in which it is wanted; who asks for a bundle waits for it."""

    def __init__(self, work: Path, plan: Plan, asked: Mapping[str, Any], budget: Budget) -> None:
        """Begin.

        Args:
            work: holds checkpoints, bundles and logs; what an earlier run left there is taken.
            plan: what is wanted.
            asked: the subject's family, size and side, and the device.
            budget: of time; what is not made by then is ended.
        """
        self.checkpoint = work / plan.subject.name
        self._work, self._budget = work, budget
        at_once = max(1, min(MOST_AT_ONCE, available_threads() // 2))
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="export")
        shipped = _shipped(work)
        self._shipped = {EXACT: self._begin(lambda: shipped, EXACT)}
        self._drawn = self._pool.submit(self._draw, asked)
        for precision in dict.fromkeys((plan.growing, *plan.compared)):
            if precision != EXACT:
                self._shipped[precision] = self._begin(lambda: shipped, precision)
        # Behind the drawing, for which they wait: a pool begins its work in order.
        self._timed = {precision: self._begin(self._drawn.result, precision) for precision in plan.timed}

    def shipped(self, precision: str) -> Made:
        """The bundle of the model that ships; raises ExportFailed, or TimeoutError where time is up."""
        return self._shipped[precision].result(self._budget.left())

    def timed(self, precision: str) -> Made:
        """The bundle of full size; raises ExportFailed, ContenderFailed, or TimeoutError where time is up."""
        return self._timed[precision].result(self._budget.left())

    def drawn(self) -> Path:
        """The checkpoint of full size; raises ContenderFailed, or TimeoutError where time is up."""
        return self._drawn.result(self._budget.left())

    def stop(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, checkpoint: Callable[[], Path], precision: str) -> Future[Made]:
        def made() -> Made:
            folder = checkpoint()
            if (left := self._left()) == 0:
                raise ExportFailed(f"time was up before {precision} could be exported")
            return make_bundle(
                folder,
                precision,
                log=self._work / "logs" / f"export-{folder.name}-{precision}.log",
                again=False,
                options=("--no-validate",),  # on a CPU, where half precision takes minutes
                limit_s=left,
            )

        return self._pool.submit(made)

    def _draw(self, asked: Mapping[str, Any]) -> Path:
        drawing = Contender("checkpoint", Drawing.__module__, "Drawing", {"work": str(self._work), **asked})
        with Running(drawing, self._work / "logs" / "checkpoint.log", limit_s=self._left()):
            return self.checkpoint

    def _left(self) -> float:
        """Seconds for what is made."""
        return max(0.0, self._budget.left() - (1 - SHARE) * self._budget.seconds)


def _shipped(work: Path) -> Path:
    """A copy of the model that ships, beside which its bundles have room."""
    folder = work / "shipped"
    with shipped_model() as checkpoint:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    return folder

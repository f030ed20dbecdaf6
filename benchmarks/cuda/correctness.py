"""Whether each precision chooses the tokens on the GPU that float32 chooses on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..exports import ExportFailed
from ..measured_process import Contender, ContenderFailed, Running
from .answers import Answers
from .bundles import Bundles
from .plan import EXACT, Plan
from .prompts import golden_kept
from .record import Budget, Found


def compare(plan: Plan, bundles: Bundles, logs: Path, budget: Budget) -> Iterator[Found]:
    """What each precision makes of the answers of fp32 on the CPU, which are held against the golden ones.

    Raises:
        ContenderFailed: there are no answers to compare with.
        ExportFailed: there is no fp32 bundle.
        TimeoutError: time is up.
    """

    def asked(precision: str, device: str, method: str, **options: Any) -> Any:
        folder, _ = bundles.shipped(precision)
        arguments = {"folder": str(folder), "device": device, "scenes": plan.scenes}
        contender = Contender(precision, Answers.__module__, "Answers", arguments)
        log = logs / f"answers-{precision}-{device}.log"
        with Running(contender, log, limit_s=budget.left()) as running:
            return running.call(method, **options)

    found: Found = {"precisions": {}}
    answers = asked(EXACT, "cpu", "answers")
    known, kept = golden_kept(answers)
    found["golden"] = {"answers": known, "kept": kept}
    yield found
    for precision in plan.compared:
        try:
            found["precisions"][precision] = asked(precision, plan.device, "agreement", answers=answers)
        except (ContenderFailed, ExportFailed) as failed:  # the others go on
            found["precisions"][precision] = {"failure": str(failed)}
        yield found

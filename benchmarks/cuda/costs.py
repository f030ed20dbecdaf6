"""Names of what is timed, the same whoever is timed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from paligemma_onnx.runtime.diagnostics.benchmark import Cost

from ..metrics import Figures

# Seconds: a picture; all rows; from the call on; a step of all rows.
STAGES = ("vision_s", "prefill_s", "time_to_first_token_s", "token_s")
LOAD = "load_s"  # from the call on until it can be asked, in a process that runs


def named(stage: str, pictures: int) -> str:
    """A stage of a request of so many pictures."""
    return f"{stage}_{pictures}"


def taken(pictures: int) -> str:
    """Bytes of device memory behind such requests."""
    return f"device_bytes_{pictures}"


def typical(costs: Sequence[Cost]) -> Figures:
    """Medians of some requests of as many pictures."""
    pictures = costs[0].images
    figures = {
        named(stage, pictures): float(median(getattr(cost, stage) for cost in costs)) for stage in STAGES
    }
    return figures | {
        named("images_per_minute", pictures): float(median(cost.images_per_minute for cost in costs))
    }

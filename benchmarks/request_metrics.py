"""Convert the measured cost of a request to figures by name."""

from __future__ import annotations

from paligemma_onnx.runtime.diagnostics.benchmark import Cost

from .metrics import STAGES, Metrics, stage_at_batch, step_at_batch


def request_metrics(cost: Cost) -> Metrics:
    """Return the figures of a request by name; metrics.py defines the names."""
    images = cost.images
    stages = {stage_at_batch(stage, images): float(getattr(cost, stage)) for stage in STAGES}
    return stages | {
        step_at_batch(images): cost.token_s,
        f"tokens_per_minute_{images}": cost.tokens_per_minute,
        f"images_per_minute_{images}": cost.images_per_minute,
    }

"""Exports as the tests run them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.layouts.check_layout import check_layout
from paligemma_onnx.export.layouts.write_layout import LayoutRequest, export_layout
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.runtime.bundle.layout_record import LayoutRecord
from paligemma_onnx.runtime.bundle.schema import Manifest


class RecordingProgress:
    """A Progress that records what an export reports and prints nothing."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []
        self.total = 0  # bytes
        self.written = 0  # bytes

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def set_total(self, size: int) -> None:
        self.total = size

    def advance(self, size: int) -> None:
        self.written += size

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def export_checked(request: ExportRequest, progress: RecordingProgress | None = None) -> Manifest:
    """Export and compare the bundle with torch, as the command line does unless told otherwise.

    Raises:
        MismatchError: the bundle differs from the checkpoint.
    """
    progress = progress or RecordingProgress()
    return export(
        request,
        progress,
        lambda folder, manifest, source: self_check(folder, manifest, source, progress.stage),
    )


def export_bundle(checkpoint: Path, output: Path, precision: str = "fp32") -> Path:
    """Export a checked bundle to `output` and return that folder."""
    export_checked(ExportRequest(checkpoint, output, precision=precision))
    return output


def export_layout_checked(request: LayoutRequest) -> LayoutRecord:
    """Export a layout and compare it with torch, as the command line does unless told otherwise."""
    progress = RecordingProgress()
    return export_layout(request, progress, partial(check_layout, progress=progress.stage))

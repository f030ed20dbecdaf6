"""Exports as the tests make them."""

from __future__ import annotations

from pathlib import Path

from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.validation.self_check import self_check


class Silent:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []
        self.expected = 0
        self.written = 0

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def total(self, size: int) -> None:
        self.expected = size

    def wrote(self, size: int) -> None:
        self.written += size

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def exported(checkpoint: Path, output: Path, precision: str = "fp32") -> Path:
    """A bundle, checked as a user's would be."""
    progress = Silent()
    export(
        ExportRequest(checkpoint, output, precision=precision),
        progress,
        lambda path, manifest, source: self_check(path, manifest, source, progress.stage),
    )
    return output

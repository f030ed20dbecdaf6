"""Fixtures shared by the tests: checkpoints and bundles, each made once per session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cached_traces import trace_with_cache
from checkpoints import CASES, write_checkpoint
from exporting import RecordingProgress, export_bundle, export_checked
from fake_cuda import cuda_bundle, gpu_python, pytest_terminal_summary

from paligemma_onnx.export import exporter
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.precisions import PRECISIONS

__all__ = ["cuda_bundle", "gpu_python", "pytest_terminal_summary"]  # found here by pytest


@pytest.fixture(scope="session")
def trace_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of traced graphs, `.pytest_cache/d/traces`; `pytest --cache-clear` removes it."""
    if hasattr(request.config, "cache"):
        return request.config.cache.mkdir("traces")
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="session", autouse=True)
def _cached_traces(trace_cache: Path) -> Iterator[None]:
    """Exports in this process take traced graphs from the cache (cached_traces.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", trace_with_cache(trace_cache))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the checkpoint folder of a case in checkpoints.py; read only."""
    folder, written = tmp_path_factory.mktemp("checkpoints"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in written:
            written[name] = write_checkpoint(CASES[name], folder / name)
        return written[name]

    return get


@pytest.fixture(scope="session")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Return the checked float32 bundle of a case; read only, copy it to damage it."""
    folder, exported = tmp_path_factory.mktemp("bundles"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in exported:
            exported[name] = export_bundle(checkpoint(name), folder / name)
        return exported[name]

    return get


@pytest.fixture(scope="session")
def in_place_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Like `bundle`, with a KV cache that is updated in place: a combination that no precision offers."""
    folder, exported = tmp_path_factory.mktemp("in_place"), dict[str, Path]()
    float32_in_place = replace(PRECISIONS["fp32"], cache="in_place")

    def get(name: str) -> Path:
        if name not in exported:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(PRECISIONS, "fp32", float32_in_place)
                exported[name] = export_bundle(checkpoint(name), folder / name)
        return exported[name]

    return get


@pytest.fixture(scope="session")
def rounded(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, str], Path]:
    """Return the checked bundle of a case in a quantised precision; read only.

    All quantised precisions of a case rewrite the same traced graphs, which come from the cache;
    tests/export/graphs/test_trace.py is the test that traces.
    """
    folder, exported = tmp_path_factory.mktemp("rounded"), dict[tuple[str, str], Path]()

    def get(name: str, precision: str) -> Path:
        if (name, precision) not in exported:
            output = folder / name / precision
            output.parent.mkdir(exist_ok=True)
            exported[name, precision] = export_bundle(checkpoint(name), output, precision)
        return exported[name, precision]

    return get


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checked float32 bundle of the model in the repository; read only."""
    folder, progress = tmp_path_factory.mktemp("shipped") / "bundle", RecordingProgress()
    with shipped_model() as checkpoint:
        export_checked(ExportRequest(checkpoint, folder), progress)
    assert not progress.warnings
    return folder

"""Fixtures shared by the tests: checkpoints and bundles, each made once per session."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cached_traces import trace_with_cache
from checkpoints import CASES, write_checkpoint
from command_line import end_commands
from exporting import RecordingProgress, export_bundle, export_checked, export_layout_checked
from fake_cuda import cuda_bundle, gpu_python, pytest_terminal_summary
from filelock import FileLock

from paligemma_onnx.export import exporter
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.layouts import write_layout
from paligemma_onnx.export.layouts.write_layout import LayoutRequest
from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.runtime.bundle.layout_record import LayoutName

__all__ = ["cuda_bundle", "gpu_python", "pytest_terminal_summary"]  # found here by pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give each pytest-xdist worker one torch thread, since the workers share the processors."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


EXPORTING_FIXTURES = {
    "bundle",
    "in_place_bundle",
    "layout",
    "rounded",
}  # each export takes ten seconds or more


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark tests that run the CUDA provider on the fake CUDA runtime, and those that export; order the files.

    `make check` exports one model only, the shipped one. One worker exports it for the first file; the other
    files that use it come last, so that no worker waits. The longest tests run first in `make test-all`, so
    that both workers end at the same time.
    """
    for item in items:
        if "gpu_python" in fixtures_of(item):
            item.add_marker(pytest.mark.cuda)
        if fixtures_of(item) & EXPORTING_FIXTURES:
            item.add_marker(pytest.mark.slow)
    yield  # pytest deselects tests by marker
    sizes = Counter(item.path for item in items)
    longest = {item.path for item in items if item.get_closest_marker("full")}
    users = {item.path for item in items if "shipped_bundle" in fixtures_of(item)}
    first = min(users, key=lambda path: (sizes[path], path), default=None)
    items.sort(
        key=lambda item: (
            item.path not in longest,
            item.path != first,
            item.path in users,
            -sizes[item.path],
            item.path,
        )
    )


def fixtures_of(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures that a test uses."""
    return set(getattr(item, "fixturenames", ()))


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
        for module in (exporter, write_layout):
            patch.setattr(module, "trace", trace_with_cache(trace_cache))
        yield


@pytest.fixture(autouse=True)
def _no_command_outlives_its_test() -> Iterator[None]:
    yield
    end_commands()


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a session folder that all pytest-xdist workers share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def build_once(path: Path, build: Callable[[Path], object]) -> Path:
    """Build a file or folder in the first worker that needs it; the others wait and use it."""
    with FileLock(f"{path}.lock"):
        if not path.exists():
            build(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the checkpoint folder of a case in checkpoints.py; read only."""
    folder = shared_folder(tmp_path_factory, "checkpoints")
    return lambda name: build_once(folder / name, lambda path: write_checkpoint(CASES[name], path))


@pytest.fixture(scope="session")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Return the checked float32 bundle of a case; read only, copy it to damage it."""
    folder = shared_folder(tmp_path_factory, "bundles")
    return lambda name: build_once(folder / name, lambda path: export_bundle(checkpoint(name), path))


@pytest.fixture(scope="session")
def in_place_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Like `bundle`, with a KV cache that is updated in place: a combination that no precision offers."""
    folder = shared_folder(tmp_path_factory, "in_place")
    float32_in_place = replace(PRECISIONS["fp32"], cache="in_place", portable=False)

    def export(name: str, path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PRECISIONS, "fp32", float32_in_place)
            export_bundle(checkpoint(name), path)

    return lambda name: build_once(folder / name, lambda path: export(name, path))


@pytest.fixture(scope="session")
def rounded(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, str], Path]:
    """Return the checked bundle of a case in a quantised precision; read only.

    All quantised precisions of a case rewrite the same traced graphs, which come from the cache;
    tests/export/graphs/test_trace.py is the test that traces.
    """
    folder = shared_folder(tmp_path_factory, "rounded")

    def get(name: str, precision: str) -> Path:
        path = folder / f"{name}-{precision}"
        return build_once(path, lambda output: export_bundle(checkpoint(name), output, precision))

    return get


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checked float32 bundle of the model in the repository; read only."""

    def export(path: Path) -> None:
        progress = RecordingProgress()
        with shipped_model() as checkpoint:
            export_checked(ExportRequest(checkpoint, path), progress)
        assert not progress.warnings

    return build_once(shared_folder(tmp_path_factory, "shipped") / "bundle", export)


@pytest.fixture(scope="session")
def layout(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, LayoutName, str], Path]:
    """Return the checked folder of a case for another tool, in one dtype; read only.

    The case "shipped" is the model in the repository.
    """
    folder = shared_folder(tmp_path_factory, "layouts")

    def export(name: str, kind: LayoutName, dtype: str, path: Path) -> None:
        with shipped_model() as shipped:
            source = shipped if name == "shipped" else checkpoint(name)
            export_layout_checked(LayoutRequest(ExportRequest(source, path), kind, (dtype,)))

    def get(name: str, kind: LayoutName, dtype: str) -> Path:
        path = folder / f"{name}-{kind}-{dtype}"
        return build_once(path, lambda output: export(name, kind, dtype, output))

    return get

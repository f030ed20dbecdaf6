"""Fixtures shared by the tests: checkpoints and bundles, each made once a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cached_traces import graphs_of
from checkpoints import CASES, write_checkpoint
from exporting import Silent, exported
from fake_cuda import cuda_bundle, gpu_python, pytest_terminal_summary

from paligemma_onnx.export import exporter
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.export.validation.self_check import self_check

__all__ = ["cuda_bundle", "gpu_python", "pytest_terminal_summary"]  # which pytest finds here


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint folder of a case in checkpoints.py; read only."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in made:
            made[name] = write_checkpoint(CASES[name], folder / name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The bundle of a case, exported and checked as a user's would be; read only, copy it to damage it."""
    folder, made = tmp_path_factory.mktemp("bundles"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in made:
            made[name] = exported(checkpoint(name), folder / name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def in_place_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """As `bundle`, with a cache that is updated in place; float32, which no precision on offer is then."""
    folder, made = tmp_path_factory.mktemp("in_place"), dict[str, Path]()
    exact = replace(PRECISIONS["fp32"], cache="in_place")

    def get(name: str) -> Path:
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(PRECISIONS, "fp32", exact)
                made[name] = exported(checkpoint(name), folder / name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def rounded(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Callable[[str], Path],
    in_place_bundle: Callable[[str], Path],
) -> Callable[[str, str], Path]:
    """A case's bundle in a precision of fewer bits, checked as an export is; read only."""
    folder, made = tmp_path_factory.mktemp("rounded"), dict[tuple[str, str], Path]()

    def get(name: str, precision: str) -> Path:
        if (name, precision) not in made:
            output = folder / name / precision
            output.parent.mkdir(exist_ok=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporter, "trace", graphs_of(in_place_bundle(name)))
                made[name, precision] = exported(checkpoint(name), output, precision)
        return made[name, precision]

    return get


@pytest.fixture(scope="session")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the model that ships; read only."""
    folder, progress = tmp_path_factory.mktemp("shipped") / "bundle", Silent()
    with shipped_model() as checkpoint:
        export(
            ExportRequest(checkpoint, folder),
            progress,
            lambda path, manifest, source: self_check(path, manifest, source, progress.stage),
        )
    assert not progress.warnings
    return folder

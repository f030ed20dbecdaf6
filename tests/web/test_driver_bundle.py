"""Bundles that the JavaScript driver reads and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_manifests import CASE, MANIFESTS
from web_driver import run_parity

from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE

pytestmark = pytest.mark.web

Folders = Callable[[str], Path]


def test_intact_bundles(bundle: Folders, shipped_bundle: Path, tmp_path: Path) -> None:
    """The ids of the manifests are those that the exporter computed."""
    folders = [str(bundle(CASE)), str(shipped_bundle)]
    assert run_parity("bundle_problems", {"folders": folders}, tmp_path) == [None, None]


def test_damaged_manifests(bundle: Folders, tmp_path: Path) -> None:
    """Python refuses each of these manifests, too (tests/runtime/bundle/test_manifest.py)."""
    folders = []
    for number, (damage, _) in enumerate(MANIFESTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "manifest.json").write_bytes((bundle(CASE) / "manifest.json").read_bytes())
        damage(folder)
        if not (folder / "manifest.json").is_fifo():  # reading waits until another process writes
            folders.append(str(folder))
    problems = run_parity("bundle_problems", {"folders": folders}, tmp_path)
    for folder, problem in zip(folders, problems, strict=True):
        assert problem.startswith(f"BundleError: {folder}/manifest.json: ")
        assert "; " in problem  # the remedy
        assert "\n" not in problem
    words = (
        "schema 99 is newer",
        "schema 1 is older",
        "cache is missing",
        "is not a plain file name",
        "is altered",
    )
    for phrase in words:
        assert any(phrase in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("decoder.data", None, "no such file; `paligemma-onnx export"),
        ("decoder.data", b"cut", "is cut: it has 3 bytes instead of"),
        ("decode.onnx", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (TENSOR_TABLE, b"{}", "is cut: it has 2 bytes"),
    ],
)
def test_damaged_files(bundle: Folders, tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in bundle(CASE).iterdir():
        if file.is_file() and file.name != name:
            (folder / file.name).symlink_to(file)
    if content is not None:
        (folder / name).write_bytes(content)
    (problem,) = run_parity("bundle_problems", {"folders": [str(folder)]}, tmp_path)
    assert problem.startswith(f"BundleError: {folder}/{name}: ")
    assert words in problem

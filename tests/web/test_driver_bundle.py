"""Bundles that the JavaScript driver reads and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damaged_manifests import MANIFESTS
from web_driver import run_parity

from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE

pytestmark = pytest.mark.web


def test_intact_bundle(shipped_bundle: Path, tmp_path: Path) -> None:
    """The id of the manifest is the one that the exporter computed, also if a tool removed the spaces."""
    without_spaces = linked(shipped_bundle, tmp_path / "bundle", "manifest.json")
    manifest = json.loads((shipped_bundle / "manifest.json").read_bytes())
    (without_spaces / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")))
    folders = [str(shipped_bundle), str(without_spaces)]
    assert run_parity("bundle_problems", {"folders": folders}, tmp_path) == [None, None]


def test_damaged_manifests(shipped_bundle: Path, tmp_path: Path) -> None:
    """Python refuses each of these manifests, too (tests/runtime/bundle/test_manifest.py)."""
    folders = []
    for number, (damage, _) in enumerate(MANIFESTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "manifest.json").write_bytes((shipped_bundle / "manifest.json").read_bytes())
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
def test_damaged_files(
    shipped_bundle: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    folder = linked(shipped_bundle, tmp_path / "bundle", name)
    if content is not None:
        (folder / name).write_bytes(content)
    (problem,) = run_parity("bundle_problems", {"folders": [str(folder)]}, tmp_path)
    assert problem.startswith(f"BundleError: {folder}/{name}: ")
    assert words in problem


def linked(bundle: Path, folder: Path, left_out: str) -> Path:
    """Return a new folder with links to the files of a bundle, except for one."""
    folder.mkdir()
    for file in bundle.iterdir():
        if file.is_file() and file.name != left_out:
            (folder / file.name).symlink_to(file)
    return folder

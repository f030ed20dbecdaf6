"""Manifests that are damaged, malicious, of another release, or contradict themselves or the graphs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import assert_bundle_refused
from damage import copy_folder, edit_manifest
from damaged_manifests import CASE, MANIFESTS, Damage

from paligemma_onnx.runtime.bundle.manifest import read_manifest

Folders = Callable[[str], Path]


@pytest.fixture
def copy(bundle: Folders, tmp_path: Path) -> Path:
    return copy_folder(bundle(CASE), tmp_path / "bundle")


@pytest.mark.parametrize(("damage", "words"), MANIFESTS)
def test_manifests(copy: Path, damage: Damage, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage(copy)
    assert_bundle_refused(copy, words, capsys)


def test_a_listed_name_that_cannot_be_a_file(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    edit_manifest(copy, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": ""}}))
    assert_bundle_refused(copy, "cannot be read (File name too long)", capsys)


def test_a_manifest_is_what_it_writes(bundle: Folders) -> None:
    path = bundle(CASE) / "manifest.json"
    assert read_manifest(path.parent).to_json() == path.read_text()


def test_a_manifest_of_schema_2(copy: Path) -> None:
    """It has no layout of the cache. Its id is the hash of its text without graph files and id."""
    path = copy / "manifest.json"
    data = json.loads(path.read_bytes())
    data |= {"schema_version": 2, "bundle_id": ""}
    del data["cache"]["layout"]
    graphs = {graph["file"] for graph in data["graphs"].values()}
    files = {name: spec for name, spec in sorted(data["files"].items()) if name not in graphs}
    hashed = json.dumps({**data, "files": files}, indent=2) + "\n"
    data["bundle_id"] = hashlib.sha256(hashed.encode()).hexdigest()[:32]
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    assert read_manifest(copy).cache.layout == "heads_slots"

"""Facts of the manifest, read from the files of a checkpoint and compared with each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paligemma_onnx.export.bundle.manifest_facts import read_image_facts, read_token_facts
from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, compute_bundle_id, read_manifest
from paligemma_onnx.runtime.errors import BundleError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


@pytest.fixture
def folder(checkpoint: Folders, tmp_path: Path) -> Path:
    """A writable copy of a checkpoint's JSON files."""
    for file in checkpoint(CASE).glob("*.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


def preprocessor(folder: Path, **changes: object) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_image_facts_without_a_preprocessor_are_siglip_s(folder: Path) -> None:
    stated = read_image_facts(folder, read_config(folder))
    (folder / "preprocessor_config.json").unlink()
    assert read_image_facts(folder, read_config(folder)) == stated
    assert (stated.size, stated.tokens, stated.mean, stated.rescale_factor) == (28, 4, (0.5,) * 3, 1 / 255)


@pytest.mark.parametrize(
    "changes",
    [
        {"rescale_factor": None, "image_mean": None},
        {"size": {"height": 28, "width": 28, "shortest_edge": None}},
        {"do_center_crop": False, "do_pad": None},
    ],
)
def test_what_is_not_set_means_the_default(folder: Path, changes: dict[str, object]) -> None:
    stated = read_image_facts(folder, read_config(folder))
    preprocessor(folder, **changes)
    assert read_image_facts(folder, read_config(folder)) == stated


@pytest.mark.parametrize(
    "changes",
    [
        {"do_center_crop": True},
        {"do_pad": True},
        {"do_resize": False},
        {"resample": 2},
        {"size": {"height": 56, "width": 56}},
        {"size": {"shortest_edge": 28}},
        {"image_mean": [0.5, 0.5]},
        {"rescale_factor": "1/255"},
    ],
)
def test_preprocessing_the_runtime_does_not_do_is_refused(folder: Path, changes: dict[str, object]) -> None:
    preprocessor(folder, **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read_image_facts(folder, read_config(folder))


def test_token_facts_are_the_tokenizer_s(folder: Path) -> None:
    facts = read_token_facts(folder, read_config(folder))
    assert (facts.pad, facts.stop, facts.bos) == (0, (1,), 2)
    rows = read_config(folder).text_config.vocab_size
    assert facts.suppressed == tuple(range(facts.image, rows))


@pytest.mark.parametrize(("stated", "expected"), [(7, (7,)), ([1, 9], (1, 9)), (None, (1,))])
def test_stop_ids_of_the_generation_config(folder: Path, stated: object, expected: tuple[int, ...]) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    assert read_token_facts(folder, read_config(folder)).stop == expected


def test_another_image_token_is_refused(folder: Path) -> None:
    config = read_config(folder)
    with pytest.raises(CheckpointError, match="image_token_index"):
        read_token_facts(folder, replace(config, image_token_index=config.image_token_index - 1))


def test_a_bundle_is_named_after_what_its_manifest_says(bundle: Folders, tmp_path: Path) -> None:
    """A manifest with one changed fact has another id and is refused."""
    manifest = read_manifest(bundle(CASE))
    assert compute_bundle_id(manifest) == manifest.bundle_id
    for changed in (
        replace(manifest, image=replace(manifest.image, mean=(0.4, 0.5, 0.5))),
        replace(manifest, tokens=replace(manifest.tokens, stop=(7,))),
        replace(manifest, model=replace(manifest.model, context_length=99)),
    ):
        (tmp_path / MANIFEST).write_text(changed.to_json())
        with pytest.raises(BundleError):
            read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    assert read_manifest(tmp_path) == manifest

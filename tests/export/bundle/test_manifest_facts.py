"""Facts of the manifest, read from the files of a checkpoint and compared with each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paligemma_onnx.export.bundle.manifest_facts import (
    find_processor_conflict,
    read_image_facts,
    read_token_facts,
)
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


def nested_processor(folder: Path, **changes: object) -> None:
    """Write processor_config.json as transformers 5 does, with the settings of the older file changed."""
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | changes
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))


def facts_of_transformers(folder: Path) -> tuple[object, ...]:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return processor.size["height"], tuple(processor.image_mean), tuple(processor.image_std)


@pytest.mark.slow
@pytest.mark.parametrize("older", [{}, {"size": 56}, {"image_mean": [0.1, 0.2, 0.3]}, {"resample": 2}])
@pytest.mark.parametrize("nested", [None, {"image_mean": [0.0, 0.4, 0.4], "image_std": [1.0, 0.2, 0.5]}])
def test_the_processor_that_transformers_takes(
    folder: Path, older: dict[str, object], nested: dict[str, object] | None
) -> None:
    """A folder saved by transformers 4, then by 5, has two files; the nested settings count."""
    if nested is None:
        (folder / "processor_config.json").write_text('{"processor_class": "PaliGemmaProcessor"}')
        older = {key: value for key, value in older.items() if key == "image_mean"}
    else:
        nested_processor(folder, **nested)
    preprocessor(folder, **older)
    config = read_config(folder)
    facts = read_image_facts(folder, config)
    assert (facts.size, facts.mean, facts.std) == facts_of_transformers(folder)
    conflict = find_processor_conflict(folder, config)
    assert (conflict is None) == (nested is None)
    if conflict is not None:
        assert "processor_config.json and preprocessor_config.json differ in " in conflict
        assert conflict.endswith("; processor_config.json was used, as in transformers 5")
        assert all(key in conflict for key in ("image_mean", "image_std", *older))


def test_equal_processors_are_no_conflict(folder: Path) -> None:
    nested_processor(folder, size=28, image_mean=None, do_pad=None)
    assert find_processor_conflict(folder, read_config(folder)) is None


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
        {"image_processor_type": "CLIPImageProcessor"},
        {"do_normalize": False},
    ],
)
def test_preprocessing_the_runtime_does_not_do_is_refused(folder: Path, changes: dict[str, object]) -> None:
    preprocessor(folder, **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))) as caught:
        read_image_facts(folder, read_config(folder))
    assert str(caught.value).startswith(f"{folder / 'preprocessor_config.json'}: ")


def test_the_remedies_for_other_preprocessing(folder: Path) -> None:
    nested_processor(folder, resample=2)
    with pytest.raises(CheckpointError, match=r"take processor_config\.json from the base model, unless"):
        read_image_facts(folder, read_config(folder))
    nested_processor(folder, size={"height": 56, "width": 56})
    with pytest.raises(CheckpointError, match=r"image_size in config\.json is 28; take both files from"):
        read_image_facts(folder, read_config(folder))


@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_siglip_s_processor_classes(folder: Path, suffix: str) -> None:
    preprocessor(folder, image_processor_type=f"SiglipImageProcessor{suffix}")
    assert read_image_facts(folder, read_config(folder)).size == 28


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

"""`validate --reference transformers`: transformers preprocesses the images itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_in_process
from damage import copy_folder
from paths import GOLDEN

from paligemma_onnx.export.bundle import manifest_facts

pytestmark = [
    pytest.mark.slow,
    # Raised by transformers' processor where it computes labels.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Folders = Callable[[str], Path]
Capsys = pytest.CaptureFixture[str]
CASE = "gemma_one_kv_head"
SCENE = str(GOLDEN / "drawing.png")


def validate(capsys: Capsys, bundle: Path, checkpoint: Path) -> tuple[int, str]:
    arguments = ["--checkpoint", str(checkpoint), "--reference", "transformers", "--steps", "2"]
    result = run_in_process(capsys, "validate", str(bundle), *arguments, "--image", SCENE)
    return result.code, result.err


def twice_saved(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint and add processor_config.json as transformers 5 writes it, with another mean."""
    copy_folder(checkpoint, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | {"image_mean": [0.4, 0.5, 0.6]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    return folder


def test_a_misread_setting_is_found(
    checkpoint: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    """Export with the older file, as before, then validate: the bundle's pixels are not the processor's."""
    folder, bundle = twice_saved(checkpoint(CASE), tmp_path / "checkpoint"), tmp_path / "bundle"
    first = run_in_process(capsys, "export", str(folder), "--output", str(bundle), "--no-validate")
    assert first.code == 0, first.err
    assert validate(capsys, bundle, folder)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(manifest_facts, "PROCESSOR_FILES", ("preprocessor_config.json",))
        command = ("export", str(folder), "--output", str(bundle), "--no-validate", "--force")
        assert run_in_process(capsys, *command).code == 0
        code, error = validate(capsys, bundle, folder)
    assert code == 6
    assert "make pixel values that differ by up to 0.2 of the same image" in error


def test_the_export_says_which_processor_was_taken(
    checkpoint: Folders, tmp_path: Path, capsys: Capsys
) -> None:
    folder = twice_saved(checkpoint(CASE), tmp_path / "checkpoint")
    result = run_in_process(
        capsys, "export", str(folder), "--output", str(tmp_path / "bundle"), "--no-validate"
    )
    assert "differ in image_mean; processor_config.json was used, as in transformers 5" in result.err
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["image"]["mean"] == [0.4, 0.5, 0.6]


def test_the_built_in_image_passes(checkpoint: Folders, bundle: Folders, capsys: Capsys) -> None:
    arguments = ("--checkpoint", str(checkpoint(CASE)), "--reference", "transformers", "--steps", "1")
    assert run_in_process(capsys, "validate", str(bundle(CASE)), *arguments).code == 0

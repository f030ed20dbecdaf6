"""An export of a JAX checkpoint writes the bundle that its Hugging Face form gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CASES
from command_line import run_in_process
from exporting import RecordingProgress
from jax_archive import jax_arrays, read_tensors, write_npz
from paths import SCENE

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.source import open_source
from paligemma_onnx.runtime.errors import OptionError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


def write_archive(folder: Path, path: Path) -> Path:
    sizes = json.loads((folder / "config.json").read_text())
    return write_npz(path, jax_arrays(read_tensors(folder), sizes))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def export_archive(folder: Path, output: Path, precision: str = "fp32") -> Path:
    """Export a checkpoint in the form of an archive, which lies next to `output`."""
    request = ExportRequest(
        write_archive(folder, output.with_name("model.npz")),
        output,
        precision,
        tokenizer=folder / "tokenizer.json",
        config=folder / "config.json",
    )
    export(request, RecordingProgress(), None)
    return output


@pytest.mark.parametrize("name", CASES)
def test_bundles_are_equal(checkpoint: Folders, bundle: Folders, tmp_path: Path, name: str) -> None:
    exported = export_archive(checkpoint(name), tmp_path / "bundle")
    assert contents(exported) == contents(bundle(name))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_weights_are_equal(
    checkpoint: Folders, rounded: Callable[[str, str], Path], tmp_path: Path, precision: str
) -> None:
    """The tensors have the same bits in the same order in memory, so that scales are equal, too."""
    exported = export_archive(checkpoint(CASE), tmp_path / "bundle", precision)
    assert contents(exported) == contents(rounded(CASE, precision))


@pytest.mark.slow
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped model as an archive: export with masks, compare, answer a prompt."""
    with shipped_model() as folder:
        archive = write_archive(folder, tmp_path / "model.npz")
        tokenizer, masks = str(folder / "tokenizer.json"), str(folder / "mask_decoder.npz")
        bundle = str(tmp_path / "bundle")
        options = ["--tokenizer", tokenizer, "--mask-decoder", masks]
        ended = run_in_process(capsys, "export", archive, "--output", bundle, *options)
        assert ended.code == 0, ended.err
        assert "compared with the PyTorch model" in ended.out
        ended = run_in_process(capsys, "validate", bundle, "--checkpoint", archive, *options, "--steps", "2")
        assert ended.code == 0, ended.err
        ended = run_in_process(
            capsys, "validate", bundle, "--checkpoint", archive, *options, "--reference", "transformers"
        )
        assert ended.code == 4
        assert "--reference transformers cannot read an .npz archive" in ended.error
    ended = run_in_process(
        capsys, "generate", "--model", bundle, "--image", SCENE, "answer en how many objects are there?"
    )
    assert ended.code == 0, ended.err
    assert ended.out.strip() == "4"


def test_archive_without_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "model.npz", a=np.ones(3))
    arguments = ("export", tmp_path / "model.npz", "--output", tmp_path / "bundle")
    ended = run_in_process(capsys, *arguments)
    assert ended.code == 2
    assert "holds no tokenizer; take tokenizer.json" in ended.error
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    ended = run_in_process(capsys, *arguments, "--tokenizer", tmp_path / "tokenizer.model")
    assert ended.code == 4
    assert "tokenizer.model: is a SentencePiece model; only tokenizer.json is read" in ended.error
    ended = run_in_process(capsys, *arguments, "--tokenizer", tmp_path / "absent.json")
    assert ended.code == 4
    assert "absent.json: no such file" in ended.error


def test_damaged_archive(checkpoint: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez_compressed(tmp_path / "model.npz", a=np.ones(3))
    tokenizer = checkpoint(CASE) / "tokenizer.json"
    arguments = ("export", tmp_path / "model.npz", "--output", tmp_path / "bundle", "--tokenizer", tokenizer)
    ended = run_in_process(capsys, *arguments)
    assert ended.code == 4
    assert "compressed members" in ended.error
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "model.npz").unlink()
    assert run_in_process(capsys, *arguments).code == 4


def test_folder_with_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "pt_224.npz", a=np.ones(3))
    ended = run_in_process(capsys, "export", tmp_path, "--output", tmp_path / "bundle")
    assert ended.code == 4
    assert "has JAX weights and no config.json; name the archive: `paligemma-onnx export" in ended.error
    assert f"{tmp_path}/pt_224.npz --tokenizer tokenizer.json --output BUNDLE`" in ended.error


def test_options_of_archives_are_refused_for_folders(checkpoint: Folders) -> None:
    folder = checkpoint(CASE)
    for options in ({"tokenizer": folder / "tokenizer.json"}, {"config_file": folder / "config.json"}):
        with pytest.raises(OptionError, match=r"are for .npz archives"):
            open_source(folder, **options)


def test_output_must_not_replace_inputs(checkpoint: Folders, tmp_path: Path) -> None:
    folder = checkpoint(CASE)
    archive = write_archive(folder, tmp_path / "model.npz")
    shutil.copy(folder / "tokenizer.json", tmp_path / "files")
    request = ExportRequest(archive, tmp_path / "files", tokenizer=tmp_path / "files")
    with pytest.raises(OptionError, match="choose another --output"):
        export(request, RecordingProgress(), None)

"""Errors of `export` for checkpoints that it cannot read and for outputs that it cannot write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run_in_process
from damage import copy_folder, edit_json, edit_tensors
from exporting import RecordingProgress
from paths import SCENE

from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.errors import OptionError

Folders = Callable[[str], Path]
Damage = Callable[[Path], object]
CASE = "gemma_one_kv_head"
EMBEDDING = "language_model.model.embed_tokens.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.fixture
def copy(checkpoint: Folders, tmp_path: Path) -> Path:
    return copy_folder(checkpoint(CASE), tmp_path / "checkpoint")


def removing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def writing(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


MORE = "language_model.model.more"


def setting(name: str, *path: str, to: Any) -> Damage:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return lambda folder: edit_json(folder / name, change)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    return lambda folder: edit_tensors(folder, change)


def indexed(shard: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))

    return damage


def cut(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def merge_of_nothing(folder: Path) -> None:
    """Add a merge of pieces that the vocabulary lacks: the tokenizers library aborts the process on it."""
    edit_json(folder / "tokenizer.json", lambda content: content["model"]["merges"].insert(0, ["no", "such"]))


def with_more_tokens(folder: Path) -> None:
    def change(content: Any) -> None:
        last = dict(content["added_tokens"][-1])
        content["added_tokens"] += [
            {**last, "id": last["id"] + n, "content": f"<new{n}>"} for n in range(1, 20)
        ]

    edit_json(folder / "tokenizer.json", change)


TOKENIZER, PREPROCESSOR, GENERATION = "tokenizer.json", "preprocessor_config.json", "generation_config.json"
DAMAGES: list[tuple[Damage, str]] = [
    (shutil.rmtree, "no such folder"),
    (removing("config.json"), "config.json: no such file"),
    (writing("config.json", "{"), "config.json: not valid JSON"),
    (setting("config.json", "model_type", to="llava"), "model_type is 'llava'"),
    (setting("config.json", "text_config", "hidden_size", to=-1), "hidden_size is -1"),
    (setting("config.json", "text_config", "hidden_size", to=10**12), "hidden_size is 1000000000000"),
    (setting("config.json", "text_config", "vocab_size", to=640), "misshapen (1): "),
    (tensors(lambda all_: all_.pop(EMBEDDING)), f"missing (1): {EMBEDDING.replace('model.', '', 1)[:15]}"),
    (tensors(lambda all_: all_.update({MORE: torch.zeros(1)})), f"unexpected (1): {MORE}"),
    (tensors(lambda all_: all_.update({EMBEDDING: all_[EMBEDDING].t().contiguous()})), "misshapen (1): "),
    (indexed("absent.safetensors"), "absent.safetensors: no such file"),
    (indexed("../weights.safetensors"), "'../weights.safetensors', not the plain name of a .safetensors"),
    (cut("model.safetensors"), "fetch the file again"),
    (writing("model.safetensors", "\xff" * 99), "broken safetensors file"),
    (writing("model.safetensors", POINTER), "git lfs pull"),
    (pickled, "only safetensors are read"),
    (removing("model.safetensors"), "has neither model.safetensors nor"),
    (removing(TOKENIZER), "tokenizer.json: no such file; download it"),
    (cut(TOKENIZER), "tokenizer.json: is cut short"),
    (writing(TOKENIZER, "{}"), "tokenizer.json: is damaged"),
    (writing(TOKENIZER, POINTER), "git lfs pull"),
    (merge_of_nothing, "a merge has a token that is not in its vocabulary"),
    (with_more_tokens, "tokens, the embedding only 656 rows"),
    (setting("config.json", "image_token_index", to=3), "config.json has image_token_index 3"),
    (setting(GENERATION, "eos_token_id", to=10**9), "eos_token_id [1000000000] outside the embedding"),
    (setting(GENERATION, "eos_token_id", to="x" * 10**6), "eos_token_id is 'xxx"),
    (setting(GENERATION, "eos_token_id", to=[]), "eos_token_id is []"),
    (writing(GENERATION, "["), "generation_config.json: not valid JSON"),
    (writing(PREPROCESSOR, "["), "preprocessor_config.json: not valid JSON"),
    (setting(PREPROCESSOR, "image_mean", to=[0.5]), "image_mean [0.5], expected three numbers"),
    (setting(PREPROCESSOR, "image_std", to=[0.5, 0, 0.5]), "image_std 0, expected a number"),
    (setting(PREPROCESSOR, "rescale_factor", to="a" * 10**5), "rescale_factor 'aaa"),
    (setting(PREPROCESSOR, "do_resize", to=False), "do_resize False, expected True"),
    (setting(PREPROCESSOR, "resample", to=0), "resample 0, expected 3"),
    (setting(PREPROCESSOR, "size", to={"height": 5, "width": 5}), "expected {'height': 28, 'width': 28}"),
    (writing(PREPROCESSOR, '{"image_processor": 3}'), "image_processor is 3, expected an object"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_checkpoints(copy: Path, damage: Damage, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4, a message of one line that names the folder, and no file at the output."""
    damage(copy)
    output = copy.parent / "bundle"
    ended = run_in_process(capsys, "export", copy, "--output", output)
    assert (ended.code, ended.out) == (4, "")
    assert message in ended.error
    assert str(copy) in ended.error
    assert len(ended.error) < len(str(copy)) + 400
    assert not output.exists()
    if copy.exists():
        with pytest.raises(CheckpointError):
            export(ExportRequest(copy, output), RecordingProgress(), None)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(copy: Path, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    """They are reported, and refused with --strict; generating with such a bundle explains the problem."""

    def change(all_: dict[str, torch.Tensor]) -> None:
        all_[EMBEDDING][:, 3] = value

    edit_tensors(copy, change)
    output = copy.parent / "bundle"
    strict = run_in_process(capsys, "export", copy, "--output", output, "--strict", "--no-validate")
    assert strict.code == 4
    assert "weights contain NaN or infinity: language_model.embed_tokens.weight" in strict.error
    assert not output.exists()
    done = run_in_process(capsys, "export", copy, "--output", output, "--no-validate")
    assert done.code == 0
    assert "warning: " in done.err
    assert "weights contain NaN or infinity: language_model.embed_tokens.weight" in done.err
    generated = run_in_process(capsys, "generate", "--model", output, "--image", SCENE, "caption en")
    assert (generated.code, generated.out) == (4, "")
    assert "use precision fp32 or bf16 instead" in generated.error


def test_outputs_that_are_taken(
    checkpoint: Folders, bundle: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the output is unchanged; --force replaces only bundles, also damaged ones."""

    def refused(output: Path, message: str, *options: str) -> None:
        ended = run_in_process(
            capsys, "export", checkpoint(CASE), "--output", output, "--no-validate", *options
        )
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.error
        with pytest.raises(OptionError):
            export(
                ExportRequest(checkpoint(CASE), output, force="--force" in options), RecordingProgress(), None
            )

    output = copy_folder(bundle(CASE), tmp_path / "bundle")
    refused(output, "exists already; choose another --output, or replace it with --force")
    file, link, work = tmp_path / "file", tmp_path / "link", tmp_path / "work"
    file.write_text("mine")
    link.symlink_to(output)
    work.mkdir()
    (work / "manifest.json").write_text("{}")
    (work / "app.js").write_text("mine")
    refused(file, "exists and is not a folder", "--force")
    refused(link, "exists and is not a folder", "--force")
    refused(work, "contains 'app.js', which no export wrote", "--force")
    refused(file / "bundle", "cannot be written (")
    refused(tmp_path / ("x" * 300), "cannot be written (File name too long)")
    refused(Path("/"), "or contains it", "--force")
    refused(Path("/proc/bundle"), "cannot be written")
    (output / "notes.txt").write_text("mine")
    refused(output, "contains 'notes.txt', which no export wrote", "--force")
    (output / "notes.txt").unlink()
    (output / "manifest.json").unlink()
    refused(output, "is not a bundle, so --force does not replace it", "--force")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bundle", "file", "link", "work"]
    assert file.read_text() == (work / "app.js").read_text() == "mine"

    (output / "manifest.json").write_text("damaged")
    for place, options in ((output, ("--force",)), (tmp_path / "new" / "deep", ()), (tmp_path / "empty", ())):
        if place.name == "empty":
            place.mkdir()
        arguments = ("export", checkpoint(CASE), "--output", place, "--no-validate", *options)
        assert run_in_process(capsys, *arguments).code == 0
        assert run_in_process(capsys, "verify", place).code == 0


@pytest.mark.parametrize("inside", ["checkpoint", "checkpoint/bundle", "link/bundle", "."])
def test_outputs_that_overlap_the_checkpoint(
    copy: Path, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output in the checkpoint or around it: --force must not replace a folder with the checkpoint."""
    (copy.parent / "link").symlink_to(copy)
    (copy.parent / "manifest.json").write_text("{}")
    before = sorted(file.name for file in copy.iterdir())
    output = copy.parent / inside
    ended = run_in_process(capsys, "export", copy, "--output", output, "--force")
    assert ended.code == 2
    assert "lies inside" in ended.error
    assert sorted(file.name for file in copy.iterdir()) == before


def test_a_folder_that_cannot_be_written(checkpoint: Folders, tmp_path: Path, monkeypatch: Any) -> None:
    """Simulated, because root may write everywhere."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    request = ExportRequest(checkpoint(CASE), tmp_path / "bundle")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        OptionError, match=r"cannot be written \(Permission denied\); choose another --output"
    ):
        export(request, RecordingProgress(), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent: no such folder"),
        ("x" * 5000, "not a possible folder name"),
        (__file__, "is a file; name the folder that contains config.json"),
        ("", "config.json: no such file"),
        ("../a/b", "no such folder"),
    ],
)
def test_names_of_no_checkpoint(
    name: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = run_in_process(capsys, "export", name, "--output", tmp_path / "bundle")
    assert ended.code == 4
    assert message in ended.error

"""The commands `export`, `validate` and `demo`: Hub errors, other checkpoints, occupied folders."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from command_line import run_in_process
from damage import copy_folder, edit_json, edit_tensors
from huggingface_hub import errors
from huggingface_hub import utils as hub

from paligemma_onnx.export.precisions import choose_precision
from paligemma_onnx.runtime.errors import OptionError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
HUB_ID = "google/paligemma-3b-pt-224"
EMBEDDING = "language_model.model.embed_tokens.weight"


def http_error(error: type[Exception], status: int) -> Exception:
    response: Any = SimpleNamespace(
        status_code=status, headers={}, request=None, url="https://huggingface.co"
    )
    text = f"{status} Client Error. (Request ID: Root=1-2)\n\nCannot access https://huggingface.co/api."
    return error(text, response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            http_error(errors.GatedRepoError, 403),
            4,
            f"accept its licence at https://huggingface.co/{HUB_ID}, then run `hf auth",
        ),
        (
            http_error(errors.RepositoryNotFoundError, 401),
            4,
            "the hub has no such model; if it is private, run",
        ),
        (http_error(errors.RevisionNotFoundError, 404), 4, "the hub has the model, but not this revision"),
        (http_error(errors.HfHubHTTPError, 503), 4, "the hub returned HTTP status 503; try again later"),
        (
            errors.LocalEntryNotFoundError("offline"),
            4,
            "the hub cannot be reached and the local cache does not have the model",
        ),
        (errors.OfflineModeIsEnabled("offline"), 4, "the hub cannot be reached"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 4, "the hub cannot be reached"),
        (errors.HFValidationError("no"), 4, "it is not a valid id on the hub"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "the disk"),
    ],
)
def test_a_hub_that_does_not_give(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    result = run_in_process(capsys, "export", f"{HUB_ID}@main", "--output", tmp_path / "bundle")
    assert (result.code, result.out) == (code, "")
    assert words in result.error
    assert HUB_ID in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_hub_id_is_downloaded(
    checkpoint: Folders,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Downloads only the files that an export reads: no pickles, and nothing of a trainer's folders."""
    repository = ["config.json", "model-00001-of-00002.safetensors", "mask_decoder.npz", "pytorch_model.bin"]
    repository += ["pt_224.npz", "checkpoint-500/config.json", "checkpoint-500/model.safetensors"]
    repository += ["checkpoint-500/mask_decoder.npz", "original/a/params.json"]
    downloads: list[tuple[str, Any]] = []
    hub.enable_progress_bars()

    def download(name: str, *, allow_patterns: Any, ignore_patterns: Any, **_: Any) -> str:
        assert hub.are_progress_bars_disabled()  # stderr is not a terminal
        patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
        downloads.append((name, list(hub.filter_repo_objects(repository, **patterns))))
        return str(checkpoint(CASE))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    arguments = ("export", HUB_ID, "--output", tmp_path / "bundle")
    result = run_in_process(capsys, *arguments)
    assert result.code == 0
    assert downloads == [(HUB_ID, ["config.json", "model-00001-of-00002.safetensors", "mask_decoder.npz"])]
    assert result.out.startswith(f"{tmp_path / 'bundle'}: bundle ")
    assert "compared with the PyTorch model" in result.out
    assert "tracing prefill\n" in result.err


def test_repository_of_jax_archives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Neither config.json nor safetensors are found there; the message names the next commands."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    result = run_in_process(capsys, "export", f"{HUB_ID}-jax", "--output", tmp_path / "bundle")
    assert result.code == 4
    assert f"{HUB_ID}-jax: holds JAX weights; run `hf download {HUB_ID}-jax FILE.npz" in result.error


def test_hub_support_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    result = run_in_process(capsys, "export", HUB_ID, "--output", tmp_path / "bundle")
    assert result.code == 4
    assert "`pip install 'paligemma-onnx[hub]'`" in result.error


def validated(capsys: pytest.CaptureFixture[str], bundle: Path, checkpoint: Path, *options: str) -> Any:
    return run_in_process(capsys, "validate", bundle, "--checkpoint", checkpoint, "--steps", "1", *options)


def test_the_checkpoint_it_was_made_of(
    bundle: Folders, checkpoint: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    result = validated(capsys, bundle(CASE), checkpoint(CASE), "--json")
    assert result.code == 0
    assert json.loads(result.out)["passed"] is True


def test_other_weights_of_the_same_model(
    bundle: Folders, checkpoint: Folders, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A fine-tuned model: exit code 6, the report on stdout, the first difference on stderr."""
    other = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")
    edit_tensors(other, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING] * 1.01}))
    result = validated(capsys, bundle(CASE), other)
    assert result.code == 6
    assert "1 of" in result.error
    assert "differ from the checkpoint; the first is language_model.embed_tokens.weight" in result.error
    assert "FAILED" in result.out
    assert json.loads(validated(capsys, bundle(CASE), other, "--json").out)["passed"] is False


@pytest.mark.parametrize(
    ("file", "path", "value", "words"),
    [
        (
            "config.json",
            ("text_config", "max_position_embeddings"),
            4096,
            "model.context_length is 8192, the",
        ),
        ("preprocessor_config.json", ("image_mean",), [0.4, 0.4, 0.4], "image.mean is (0.5, 0.5, 0.5), the"),
        (
            "generation_config.json",
            ("eos_token_id",),
            [1, 2],
            "tokens.stop is (1,), the checkpoint has (1, 2)",
        ),
    ],
)
def test_other_facts(
    bundle: Folders,
    checkpoint: Folders,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    file: str,
    path: tuple[str, ...],
    value: object,
    words: str,
) -> None:
    """A checkpoint with other facts is refused before torch computes anything."""
    other = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")

    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    edit_json(other / file, change)
    result = validated(capsys, bundle(CASE), other)
    assert (result.code, result.out) == (6, "")
    assert words in result.error


def test_no_bundle_and_no_checkpoint(
    bundle: Folders, checkpoint: Folders, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "is a checkpoint, not a bundle" in validated(capsys, checkpoint(CASE), checkpoint(CASE)).error
    assert f"{tmp_path}: is empty; download the checkpoint" in validated(capsys, bundle(CASE), tmp_path).error


def test_validate_takes_prompts_and_images_from_variables(
    bundle: Folders, checkpoint: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALIGEMMA_ONNX_VALIDATE_PROMPT", "caption en\nanswer en why?\ndetect red")
    result = validated(capsys, bundle(CASE), checkpoint(CASE), "--json")
    assert json.loads(result.out)["rows"] == 3
    monkeypatch.setenv("PALIGEMMA_ONNX_VALIDATE_IMAGE", "absent.png")
    assert validated(capsys, bundle(CASE), checkpoint(CASE)).code == 3


def test_a_demo_leaves_what_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine", tmp_path / "mine" / "deeper"):
        result = run_in_process(capsys, "demo", "--output", folder)
        assert result.code == 2
        assert str(folder) in result.error
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_what_a_bundle_is_for() -> None:
    assert (choose_precision(None, None), choose_precision(None, "cpu"), choose_precision(None, "cuda")) == (
        "fp32",
        "fp32",
        "bf16",
    )
    assert (
        choose_precision("int4", None),
        choose_precision("fp32", "cuda"),
        choose_precision("int4", "cpu"),
    ) == ("int4", "fp32", "int4")
    with pytest.raises(OptionError, match="not run on cuda; choose from fp32, bf16, fp16, int4-bf16"):
        choose_precision("int4", "cuda")
    with pytest.raises(OptionError, match="bf16 does not run on cpu"):
        choose_precision("bf16", "cpu")

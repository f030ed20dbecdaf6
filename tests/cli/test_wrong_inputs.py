"""Inputs of the wrong kind: each is recognised, and the message names the next command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from command_line import run_in_process
from paths import GOLDEN
from safetensors.torch import save_file

from paligemma_onnx.export.sources.tokenizer_file import open_tokenizer
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.checkpoint.load import open_checkpoint

Capsys = pytest.CaptureFixture[str]
BASE = "google/paligemma2-3b-pt-224"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
ADAPTER = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": BASE}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(ADAPTER) if "adapter_config" in name else "{}")
    return folder


def error(capsys: Capsys, *arguments: object) -> str:
    result = run_in_process(capsys, *arguments)
    assert result.code == 4
    return result.error


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"),
            f"is a LoRA adapter; export its base model with it: `paligemma-onnx export {BASE} --output "
            "BUNDLE --adapter {folder}`",
        ),
        (
            ("adapter_config.json", "adapter_model.safetensors", "config.json"),
            f"`paligemma-onnx export {BASE} --output BUNDLE --adapter {{folder}}`",
        ),
        (
            ("manifest.json", "prefill.onnx"),
            "is a bundle, the result of an export; run it: `paligemma-onnx generate",
        ),
        (
            ("checkpoint-900/config.json", "checkpoint-1000/config.json", "trainer_state.json"),
            "these subfolders have one: checkpoint-1000, checkpoint-900; "
            "`paligemma-onnx export {folder}/checkpoint-1000 --output BUNDLE`",
        ),
        (
            ("model-Q4_K_M.gguf", "mmproj.gguf"),
            "is a model of llama.cpp, whose weights are quantised; export",
        ),
        (("tokenizer.model",), "config.json: no such file"),
        (("config.json", "model-Q4.gguf"), "model-Q4.gguf is a model of llama.cpp"),
        (
            ("models--a--b/snapshots/c0ffee/config.json",),
            "name the folder of a snapshot: `paligemma-onnx export {folder}/models--a--b/snapshots/c0ffee --",
        ),
        (("snapshots/c0ffee/config.json", "refs/main"), "export {folder}/snapshots/c0ffee --output"),
    ],
)
def test_folders_given_to_export(tmp_path: Path, capsys: Capsys, names: tuple[str, ...], words: str) -> None:
    folder = write(tmp_path / "given", *names)
    message = error(capsys, "export", folder, "--output", tmp_path / "bundle")
    assert words.replace("{folder}", str(folder)) in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paligemma-Q4.gguf", "is a model of llama.cpp"),
        ("model.safetensors", "is a weight file; name the folder that contains it and config.json"),
        ("pytorch_model.bin", "is a pickle; load the model in transformers"),
        ("checkpoint.tar.gz", "is an archive; unpack it"),
        ("prefill.onnx", "is an ONNX graph"),
        ("config.json", "name the folder that contains config.json"),
        ("weights.h5", "is a file; name the folder that contains config.json"),
    ],
)
def test_files_given_to_export(tmp_path: Path, capsys: Capsys, name: str, words: str) -> None:
    assert words in error(capsys, "export", write(tmp_path, name) / name, "--output", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"https://huggingface.co/{BASE}", f"use the id of the model: `paligemma-onnx export {BASE} ...`"),
        (f"huggingface.co/{BASE}/", f"`paligemma-onnx export {BASE} ...`"),
        (f"https://huggingface.co/{BASE}/tree/bfloat16", f"`paligemma-onnx export {BASE}@bfloat16 ...`"),
        (f"https://hf-mirror.com/{BASE}/blob/main/config.json?x=1", f"export {BASE}@main ..."),
        (f"hf.co/{BASE}", f"is a URL; use the id of the model: `paligemma-onnx export {BASE} ...`"),
        (f"hf://{BASE}", f"export {BASE} ..."),
        ("https://www.kaggle.com/models/google/paligemma", "download the files and name the folder"),
        ("s3://bucket/model", "is a URL; download the files"),
    ],
)
def test_urls_given_to_export(tmp_path: Path, capsys: Capsys, url: str, words: str) -> None:
    assert words in error(capsys, "export", url, "--output", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("adapter_config.json",), f"`paligemma-onnx export {BASE} --output BUNDLE --adapter owner/name`"),
        (("tokenizer.json",), "the repository has no config.json at its top; download the part"),
    ],
)
def test_hub_ids_given_to_export(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], words: str
) -> None:
    folder = write(tmp_path / "cache", *names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    message = error(capsys, "export", "owner/name", "--output", tmp_path / "bundle")
    assert message.startswith("error: owner/name: ")
    assert words in message


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("config.json", "model.safetensors"),
            "is a model, not an adapter; export it: `paligemma-onnx export ",
        ),
        (
            ("checkpoint-20/adapter_config.json",),
            "give one of its folders: `--adapter {folder}/checkpoint-20`",
        ),
        (("README.md",), "has no adapter_config.json, which states rank and scale; fetch this file as well"),
        (("manifest.json",), "is a bundle, not an adapter"),
    ],
)
def test_folders_given_as_adapter(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: Capsys, names: tuple[str, ...], words: str
) -> None:
    folder = write(tmp_path / "given", *names)
    base = checkpoint("gemma_one_kv_head")
    message = error(capsys, "export", base, "--adapter", folder, "--output", tmp_path / "bundle")
    assert words.replace("{folder}", str(folder)) in message


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("config.json",),
            "is a checkpoint, not a bundle; export it first: `paligemma-onnx export {folder} --output",
        ),
        (
            ("adapter_config.json",),
            "is a LoRA adapter, not a bundle; export it with its base model: `paligemma-onnx",
        ),
        (("README.md",), "manifest.json: no such file; `paligemma-onnx export CHECKPOINT --output {folder}`"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "inspect", "verify"])
def test_folders_given_as_bundle(
    tmp_path: Path, capsys: Capsys, command: str, names: tuple[str, ...], words: str
) -> None:
    folder = write(tmp_path / "given", *names)
    image = ("--image", GOLDEN / "drawing.png", "caption en")
    arguments = ("generate", "--model", folder, *image) if command == "generate" else (command, folder)
    assert words.replace("{folder}", str(folder)) in error(capsys, *arguments)


@pytest.mark.parametrize("names", [(), ("tokenizer.model",)])
def test_a_folder_without_tokenizer_json(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = write(tmp_path, "config.json", *names)
    with pytest.raises(CheckpointError) as caught:
        open_tokenizer(folder / "tokenizer.json")
    command = f"`hf download google/paligemma-3b-pt-224 tokenizer.json --local-dir {folder}`"
    assert command in str(caught.value)
    assert ("tokenizer.model is not read" in str(caught.value)) == bool(names)


def test_other_names_given_as_bundle(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"export it: `paligemma-onnx export {BASE} --output BUNDLE`" in error(capsys, "inspect", BASE)
    write(tmp_path, "model.gguf")
    assert "model.gguf: is a file; name the folder of a bundle" in error(capsys, "inspect", "model.gguf")


def test_an_adapter_in_the_folder_of_a_model(capsys: Capsys, tmp_path: Path) -> None:
    """transformers adds the adapter by itself, so the model alone would be a wrong bundle."""
    folder = write(tmp_path / "both", "config.json", "model.safetensors", "adapter_config.json")
    message = error(capsys, "export", folder, "--output", tmp_path / "bundle")
    assert (
        f"holds a model and an adapter, which transformers adds to the model; add `--adapter {folder}`"
        in message
    )
    message = error(capsys, "export", folder, "--output", tmp_path / "bundle", "--adapter", folder)
    assert "model_type is missing" in message


def test_an_empty_folder(capsys: Capsys, tmp_path: Path) -> None:
    message = error(capsys, "export", tmp_path, "--output", tmp_path.parent / "bundle")
    assert f"is empty; download the checkpoint: `hf download OWNER/NAME --local-dir {tmp_path}`" in message


@pytest.mark.parametrize("weight", ["abc", "nan", "1e400", ""])
def test_weights_that_are_no_numbers(capsys: Capsys, tmp_path: Path, weight: str) -> None:
    base = write(tmp_path / "base", "config.json")
    adapter = f"{write(tmp_path / 'lora', 'adapter_config.json')}:{weight}"
    message = error(capsys, "export", base, "--output", tmp_path / "bundle", "--adapter", adapter)
    assert f"the weight '{weight}' is not a finite number" in message


def test_a_file_given_as_adapter(capsys: Capsys, tmp_path: Path) -> None:
    base = write(tmp_path / "base", "config.json")
    file = write(tmp_path / "lora", "adapter_model.safetensors") / "adapter_model.safetensors"
    message = error(capsys, "export", base, "--output", tmp_path / "bundle", "--adapter", file)
    assert f"is a file; name the folder of the adapter: `--adapter {file.parent}`" in message


def test_a_url_given_as_bundle(capsys: Capsys) -> None:
    message = error(capsys, "verify", f"https://huggingface.co/{BASE}")
    assert f"https://huggingface.co/{BASE}: is a URL; download the bundle and name its folder" in message


def test_a_bundle_given_as_its_checkpoint(capsys: Capsys, shipped_bundle: Path) -> None:
    message = error(capsys, "validate", shipped_bundle, "--checkpoint", shipped_bundle)
    assert f"is a bundle; name the checkpoint that {shipped_bundle} was exported from" in message


def test_git_lfs_pointers_in_a_bundle(capsys: Capsys, shipped_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(shipped_bundle, tmp_path / "bundle")
    (bundle / "decoder.data").write_text(POINTER)
    assert "decoder.data is a Git LFS pointer (run `git lfs pull`)" in error(capsys, "verify", bundle)
    inspected = run_in_process(capsys, "inspect", bundle)
    assert inspected.code == 0
    assert "note        decoder.data is a Git LFS pointer" in inspected.out
    (bundle / "manifest.json").write_text(POINTER)
    assert "a Git LFS pointer, not the file itself; run `git lfs pull`" in error(capsys, "verify", bundle)


def test_an_adapter_with_nan(checkpoint: Callable[[str], Path], capsys: Capsys, tmp_path: Path) -> None:
    base, folder = checkpoint("gemma_one_kv_head"), write(tmp_path / "lora", "adapter_config.json")
    q_proj = "language_model.layers.0.self_attn.q_proj"
    outputs, inputs = open_checkpoint(base)[1].tensor(f"{q_proj}.weight").shape
    factors = {"A": torch.ones(2, inputs), "B": torch.full((outputs, 2), torch.nan)}
    names = {f"base_model.model.model.{q_proj}.lora_{key}.weight": factors[key] for key in factors}
    save_file(names, folder / "adapter_model.safetensors")
    message = error(capsys, "export", base, "--adapter", folder, "--strict", "--output", tmp_path / "bundle")
    assert f"error: {folder}: the adapter makes these weights NaN or infinity: {q_proj}.weight" in message

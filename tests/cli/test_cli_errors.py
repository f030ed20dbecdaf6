"""Errors of the command line: each has its exit code and one line on stderr."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import block_imports, run_command, run_in_process
from PIL import Image

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.fixture
def generate(bundle: Folders, image: Path) -> tuple[str, ...]:
    return ("generate", "--model", str(bundle(CASE)), "--image", str(image), "--max-new-tokens", "12")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens is 0, expected 1 to 8192"),
        (["--max-new-tokens", "-1"], "--max-new-tokens is -1"),
        (["--max-new-tokens", "1000000000"], "expected 1 to 8192, the context length"),
        (["--max-new-tokens", "1e9"], "'--max-new-tokens': '1e9' is not a valid integer"),
        (["--temperature", "-1"], "temperature must be a finite number >= 0"),
        (["--temperature", "nan"], "temperature"),
        (["--temperature", "inf"], "temperature"),
        (["--top-p", "0"], "--top-p must be a number > 0 and <= 1"),
        (["--top-p", "1.1"], "--top-p"),
        (["--top-k", "-1"], "--top-k must be a whole number >= 0"),
        (["--seed", "-1"], "seed must be a whole number from 0 to"),
        (["--seed", str(2**64)], "seed"),
        (["--threads", "0"], "'--threads': 0 is not in the range 1<=x<=256"),
        (["--threads", "100000"], "'--threads'"),
        (["--device", "tpu"], "'--device': device is 'tpu', expected auto, cpu, cuda or cuda:N"),
        (["--device", "gpu"], "'--device': device is 'gpu'"),
        (["--device", "cuda:"], "device is 'cuda:'"),
        (["--device", "cuda:x"], "device is 'cuda:x'"),
        (["--device", "cuda:-1"], "device is 'cuda:-1'"),
        (["--device", "cpu:0"], "device is 'cpu:0'"),
        (["--gpu-memory", "0"], "'--gpu-memory': '0' is not a memory size such as 12GiB"),
        (["--gpu-memory", "-1GiB"], "'-1GiB' is not a memory size"),
        (["--gpu-memory", "much"], "'much' is not a memory size"),
        (["--gpu-memory", "9" * 400], "is not a memory size"),
        (["--gpu-memory", "0.1B"], "'0.1B' is not a memory size"),
        (["--max-image-pixels", "0"], "--max-image-pixels is 0"),
        (["--image", ""], "Invalid value for '--image': the path is empty"),
        (["--no-such"], "No such option"),
        (["two"], "unexpected extra argument"),
    ],
)
def test_usage(
    generate: tuple[str, ...], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_in_process(capsys, *generate, "caption en", *options)
    assert (result.code, result.out) == (2, "")
    assert words in result.error


@pytest.mark.parametrize("arguments", [("generate",), ("no-such-command",), ("export",), ("--no-such",)])
def test_usage_of_commands(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    result = run_in_process(capsys, *arguments)
    assert (result.code, result.out) == (2, "")
    assert "--help`)" in result.error


@pytest.mark.parametrize(
    ("prompt", "words"), [("x" * 100_000, "shorten it"), ("half \udcff a character", "the surrogate U+DCFF")]
)
def test_prompts(
    generate: tuple[str, ...], prompt: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_in_process(capsys, *generate, prompt)
    assert (result.code, result.out) == (3, "")
    assert words in result.error


@pytest.mark.parametrize("prompt", ["", "<image><bos>caption <b>", "שלום 👩🏽‍🚀", "-- detect a"])
def test_strange_prompts_are_answered(
    generate: tuple[str, ...], prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(capsys, *generate, "--json", "--", prompt).code == 0


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_images(
    generate: tuple[str, ...], tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad\n\x1b[31m.png"  # contains a terminal escape sequence
    if content is not None:
        bad.write_bytes(content)
    result = run_in_process(capsys, *generate, "--image", bad, "caption en")
    assert (result.code, result.out) == (3, "")
    assert "bad\\n\\x1b[31m.png" in result.error


def test_an_animated_image_is_a_warning(
    generate: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    result = run_in_process(capsys, *generate, "--image", tmp_path / "two.gif", "caption en")
    assert result.code == 0
    assert result.err.startswith("warning: ")
    assert result.err.count("\n") == 1


def test_debug(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = run_in_process(capsys, "inspect", tmp_path / "absent")
    debug = run_in_process(capsys, "--debug", "inspect", tmp_path / "absent")
    assert (plain.code, debug.code) == (4, 4)
    assert "Traceback" in debug.err
    assert debug.err.endswith(f"{plain.error}\n")


def test_what_nobody_expected(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("paligemma_onnx.runtime.cli.bundle.read_manifest", fail)
    result = run_in_process(capsys, "inspect", "bundle")
    assert result.code == 1
    assert (
        result.error
        == "error: unexpected KeyError: 'a bug' (run `paligemma-onnx --debug COMMAND ...` for a traceback)"
    )


@pytest.mark.slow
def test_no_torch(checkpoint: Folders, tmp_path: Path) -> None:
    for missing in ("torch", "onnxscript"):
        result = run_command(
            "export", str(checkpoint(CASE)), "--output", str(tmp_path / "b"), before=block_imports(missing)
        )
        assert result.code == 4
        assert f"`export` needs {missing}: run `pip install 'paligemma-onnx[cpu,export]'`" in result.error


def test_no_engine(generate: tuple[str, ...]) -> None:
    result = run_command(*generate, "caption en", before=block_imports("onnxruntime"))
    assert (result.code, result.out) == (4, "")
    assert "onnxruntime is not installed: `pip install 'paligemma-onnx[cpu]'`" in result.error
    doctor = run_command("doctor", before=block_imports("onnxruntime"))
    assert doctor.code == 4
    assert "onnxruntime is not installed" in doctor.out


def test_a_message_names_options(
    generate: tuple[str, ...], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_in_process(capsys, *generate, "--max-image-pixels", 9, "caption en")
    assert result.code == 3
    assert result.error.endswith("over the cap of 9; make it smaller or raise --max-image-pixels")
    absent = image.with_name("top_k")  # a parameter's name in a path is not changed
    assert str(absent) in run_in_process(capsys, *generate, "--image", absent, "caption en").error


def test_an_input_image_is_not_overwritten(
    bundle: Folders, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = image.read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(image)
    for drawn in (image, link):
        arguments = ("detect", "--model", bundle(CASE), "--image", image, "cat", "--draw", drawn)
        result = run_in_process(capsys, *arguments)
        assert result.code == 2
        assert f"{drawn}: is the input image; choose another --draw" in result.error
    assert image.read_bytes() == content


def test_an_image_without_permission_reaches_the_image_reader(
    generate: tuple[str, ...],
    image: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root may read every file, so that the check of click is made to fail."""
    monkeypatch.setattr(os, "access", lambda path, *_, **__: os.fspath(path) != str(image))
    assert run_in_process(capsys, *generate, "caption en").code == 0


def test_a_manifest_without_permission(
    bundle: Folders, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    result = run_in_process(capsys, "generate", "--model", bundle(CASE), "--image", image, "caption en")
    assert result.code == 4
    assert "manifest.json: cannot be read (Permission denied); check the permissions" in result.error


def test_a_weight_file_without_permission(
    bundle: Folders, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".data":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    result = run_in_process(capsys, "generate", "--model", bundle(CASE), "--image", image, "caption en")
    assert result.code == 4
    assert ".data cannot be read (Permission denied: check its permissions)" in result.error

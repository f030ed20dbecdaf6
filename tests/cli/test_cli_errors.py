"""What the command line refuses, each with its exit code and one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import block_imports, run_command, run_in_process
from PIL import Image

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(PICTURE).save(path)
    return path


@pytest.fixture
def generate(bundle: Folders, picture: Path) -> tuple[str, ...]:
    return ("generate", "--model", str(bundle(CASE)), "--image", str(picture), "--max-new-tokens", "12")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-new-tokens", "0"], "max_new_tokens is 0, expected 1 to 8192"),
        (["--max-new-tokens", "-1"], "max_new_tokens is -1"),
        (["--max-new-tokens", "1000000000"], "expected 1 to 8192, the context length"),
        (["--max-new-tokens", "1e9"], "'--max-new-tokens': '1e9' is not a valid integer"),
        (["--temperature", "-1"], "temperature must be a finite number >= 0"),
        (["--temperature", "nan"], "temperature"),
        (["--temperature", "inf"], "temperature"),
        (["--top-p", "0"], "top_p must be a number > 0 and <= 1"),
        (["--top-p", "1.1"], "top_p"),
        (["--top-k", "-1"], "top_k must be a whole number >= 0"),
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
        (["--gpu-memory", "0"], "'--gpu-memory': '0' is not an amount of memory such as 12GiB"),
        (["--gpu-memory", "-1GiB"], "'-1GiB' is not an amount"),
        (["--gpu-memory", "much"], "'much' is not an amount"),
        (["--gpu-memory", "0.1B"], "'0.1B' is not an amount"),
        (["--max-image-pixels", "0"], "max_image_pixels is 0"),
        (["--no-such"], "No such option"),
        (["two"], "unexpected extra argument"),
    ],
)
def test_usage(
    generate: tuple[str, ...], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(capsys, *generate, "caption en", *options)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.error


@pytest.mark.parametrize("arguments", [("generate",), ("no-such-command",), ("export",), ("--no-such",)])
def test_usage_of_commands(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(capsys, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "--help`)" in ended.error


@pytest.mark.parametrize(
    ("prompt", "words"), [("x" * 100_000, "shorten it"), ("half \udcff a character", "the surrogate U+DCFF")]
)
def test_prompts(
    generate: tuple[str, ...], prompt: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_in_process(capsys, *generate, prompt)
    assert (ended.code, ended.out) == (3, "")
    assert words in ended.error


@pytest.mark.parametrize("prompt", ["", "<image><bos><eos><pad>", "שלום 👩🏽‍🚀", "-- detect a"])
def test_strange_prompts_are_answered(
    generate: tuple[str, ...], prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(capsys, *generate, "--json", "--", prompt).code == 0


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_images(
    generate: tuple[str, ...], tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad\n\x1b[31m.png"  # a name that could command a terminal
    if content is not None:
        bad.write_bytes(content)
    ended = run_in_process(capsys, *generate, "--image", bad, "caption en")
    assert (ended.code, ended.out) == (3, "")
    assert "bad\\n\\x1b[31m.png" in ended.error


def test_an_animated_image_is_a_warning(
    generate: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1])]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    ended = run_in_process(capsys, *generate, "--image", tmp_path / "two.gif", "caption en")
    assert ended.code == 0
    assert ended.err.startswith("warning: ")
    assert ended.err.count("\n") == 1


def test_debug(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = run_in_process(capsys, "inspect", tmp_path / "absent")
    debug = run_in_process(capsys, "--debug", "inspect", tmp_path / "absent")
    assert (plain.code, debug.code) == (4, 4)
    assert "Traceback" in debug.err
    assert debug.err.endswith(f"{plain.error}\n")


def test_what_nobody_expected(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("paligemma_onnx.runtime.cli.bundle.read_manifest", fail)
    ended = run_in_process(capsys, "inspect", "bundle")
    assert ended.code == 1
    assert (
        ended.error
        == "error: unexpected KeyError: 'a fault of ours' (run again with --debug before the command)"
    )


def test_no_torch(checkpoint: Folders, tmp_path: Path) -> None:
    for missing in ("torch", "onnxscript"):
        ended = run_command(
            "export", str(checkpoint(CASE)), "--output", str(tmp_path / "b"), before=block_imports(missing)
        )
        assert ended.code == 4
        assert f"`export` needs {missing}: run `pip install 'paligemma-onnx[cpu,export]'`" in ended.error


def test_no_engine(generate: tuple[str, ...]) -> None:
    ended = run_command(*generate, "caption en", before=block_imports("onnxruntime"))
    assert (ended.code, ended.out) == (4, "")
    assert "install one with `pip install 'paligemma-onnx[cpu]'`" in ended.error
    doctor = run_command("doctor", before=block_imports("onnxruntime"))
    assert doctor.code == 4
    assert "no execution engine: install one with" in doctor.out

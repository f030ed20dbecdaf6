"""The command line: stdout, stderr, JSON output, environment variables, locales and help."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import block_imports, run_command, run_in_process
from PIL import Image

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.cli.group import COMMANDS, cli

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
MAX_HELP_LINES = 80  # at 80 columns: two screens of 40 lines
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
KEYS = {"text", "token_ids", "finish_reason", "prompt_tokens", "image_tokens", "seed", "device", "timings"}
TIMINGS = {"load_s", "vision_s", "prefill_s", "decode_s", "time_to_first_token_s", "tokens_per_second"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.fixture
def generate(bundle: Folders, image: Path) -> tuple[str, ...]:
    return ("generate", "--model", str(bundle(CASE)), "--image", str(image), "--max-new-tokens", "12")


HEAVY_MODULES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "onnxscript",
    "safetensors",
    "transformers",
    "pyarrow",
    "ray",
)
PAGES = """
import io, json, contextlib
from paligemma_onnx.runtime.cli.group import COMMANDS, cli
pages = {}
for name in ("", *COMMANDS):
    with contextlib.redirect_stdout(io.StringIO()) as page:
        cli.main([*name.split(), "--help"], prog_name="paligemma-onnx", standalone_mode=False)
    pages[name] = page.getvalue()
print(json.dumps(pages))
raise SystemExit
"""


def test_every_help_fits_a_screen_and_needs_no_engine() -> None:
    result = run_command(before=block_imports(*HEAVY_MODULES) + PAGES, env={"COLUMNS": "80"})
    assert result.code == 0, result.err
    pages = json.loads(result.out)
    assert set(pages) == {"", *COMMANDS}
    for name, page in pages.items():
        assert page.startswith(f"Usage: paligemma-onnx {name}".rstrip())
        assert len(page.splitlines()) <= MAX_HELP_LINES, name
    assert all(name in pages[""] for name in COMMANDS)
    assert "PALIGEMMA_ONNX_GENERATE_MODEL" in pages[""]


def test_the_answer_is_on_stdout_and_nothing_else(
    generate: tuple[str, ...], bundle: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = PaliGemma.load(bundle(CASE)).generate(PIXELS, "caption en", max_new_tokens=12)
    for options in ((), ("--stats",)):
        result = run_in_process(capsys, *generate, "caption en", *options)
        assert (result.code, result.out) == (0, expected.text + "\n")
        assert bool(result.err) == ("--stats" in options)
        if result.err:
            assert "tokens/s" in result.err
            assert result.err.count("\n") == 1


def test_json(generate: tuple[str, ...], bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--json", "--stats", "--temperature", "1", "--seed", str(2**64 - 1))
    result = run_in_process(capsys, *generate, "caption en", *options)
    assert result.code == 0
    answer = json.loads(result.out)
    assert answer.keys() >= KEYS
    assert answer["timings"].keys() >= TIMINGS
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in answer["timings"].values())
    model = PaliGemma.load(bundle(CASE))
    same = model.generate(PIXELS, "caption en", max_new_tokens=12, temperature=1.0, seed=2**64 - 1)
    assert (answer["text"], tuple(answer["token_ids"])) == (same.text, same.token_ids)
    assert (answer["seed"], answer["device"]) == (2**64 - 1, model.device)
    assert (answer["prompt_tokens"], answer["image_tokens"]) == (same.prompt_tokens, same.image_tokens)
    assert answer["finish_reason"] == same.finish_reason
    assert result.err.count("\n") == 1


def test_several_images(generate: tuple[str, ...], image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_in_process(capsys, *generate, "--image", image, "--json", "")
    assert json.loads(result.out)["image_tokens"] == 8


def test_every_option_has_a_variable_of_its_name() -> None:
    context = click.Context(cli, info_name="paligemma-onnx")
    for command_name in COMMANDS:
        command = cli.get_command(context, command_name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                named = {name.lstrip("-").replace("-", "_") for name in option.opts}
                assert option.name in named, f"{command_name} {option.opts}"


def test_variables(
    bundle: Folders, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "MODEL": bundle(CASE),
        "IMAGE": image,
        "MAX_NEW_TOKENS": 3,
        "JSON": 1,
        "SEED": 9,
        "TEMPERATURE": 1,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"PALIGEMMA_ONNX_GENERATE_{name}", str(value))
    answer = json.loads(run_in_process(capsys, "generate", "caption en").out)
    assert len(answer["token_ids"]) <= 3
    assert answer["seed"] == 9
    assert run_in_process(capsys, "generate", "caption en", "--seed", "8").out.count('"seed": 8')
    monkeypatch.setenv("PALIGEMMA_ONNX_GENERATE_TOP_P", "2")
    assert run_in_process(capsys, "generate", "caption en").code == 2
    monkeypatch.setenv("PALIGEMMA_ONNX_DEBUG", "1")
    assert "Traceback" in run_in_process(capsys, "inspect", image).err


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_any_character_under_any_locale(
    generate: tuple[str, ...], bundle: Folders, image: Path, locale: dict[str, str]
) -> None:
    model = PaliGemma.load(bundle(CASE))
    for seed in range(99):
        answer = model.generate(image, "caption en", temperature=1.0, seed=seed, max_new_tokens=12)
        if not answer.text.isascii() and answer.text.isprintable():
            break
    sampled = (*generate, "caption en", "--temperature", "1", "--seed", str(seed))
    result = run_command(*sampled, env=locale)
    assert (result.code, result.err) == (0, "")
    escaped = answer.text.encode("ascii", "backslashreplace").decode()
    assert result.out in (f"{answer.text}\n", f"{escaped}\n")
    assert json.loads(run_command(*sampled, "--json", env=locale).out)["text"] == answer.text


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_in_process(capsys, "doctor")
    assert result.code == 0
    assert "onnxruntime" in result.out
    facts = json.loads(run_in_process(capsys, "doctor", "--json").out)
    assert facts["runs"] is True
    assert "cpu" in facts["devices"]
    assert facts["threads"] >= 1
    assert facts["telemetry_disabled"] is True
    assert facts["versions"]["torch"]


def test_inspect_and_verify(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle(CASE)
    manifest = json.loads((folder / "manifest.json").read_text())
    for command in ("inspect", "verify"):
        result = run_in_process(capsys, command, folder)
        assert result.code == 0
        assert manifest["bundle_id"] in result.out
        facts = json.loads(run_in_process(capsys, command, folder, "--json").out)
        assert facts["bundle_id"] == manifest["bundle_id"]
    assert facts == {"bundle_id": manifest["bundle_id"], "files": 7, "passed": True}
    assert "checking decoder.data\n" in result.err


def test_generate_needs_nothing_of_the_export_side(generate: tuple[str, ...]) -> None:
    blocked = tuple(name for name in HEAVY_MODULES if name != "onnxruntime")
    result = run_command(*generate, "caption en", before=block_imports(*blocked))
    assert result.code == 0, result.err

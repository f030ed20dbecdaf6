"""README and docs: commands parse and run, Python examples run, links and names resolve."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run_command
from headings import heading_anchors
from npm_stub import install_onnxruntime_web
from paths import ROOT, SCENE
from PIL import Image
from safetensors.torch import save_file
from torch import zeros

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.runtime.cli.group import COMMANDS, cli

PAGES = (ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
HUB_IDS = re.compile(r"google/paligemma2?-3b-(mix|pt)-224")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> list[str]:
    """Return the `paligemma-onnx` command lines of a page, backslash continuations joined."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("paligemma-onnx ")]


EVERY_COMMAND = [(page, line) for page in PAGES for line in commands(page)]
EXAMPLES = [page for page in PAGES if blocks(page, "python")]


def test_every_command_is_documented() -> None:
    shown = {shlex.split(line)[1] for _, line in EVERY_COMMAND}
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"`{name}`" not in text} == set()
    assert shown >= {
        "export",
        "generate",
        "detect",
        "segment",
        "validate",
        "verify",
        "inspect",
        "batch",
        "bench",
    }
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("line", sorted({line for _, line in EVERY_COMMAND if "[" not in line}))
def test_command_parses(line: str) -> None:
    """Options and arguments are known; nothing runs."""
    name, *arguments = shlex.split(line)[1:]
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments, parent=context)


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the pages mention: images, tables, an adapter, a mask decoder, npm packages."""
    tmp_path = tmp_path_factory.mktemp("user")
    shutil.copy(SCENE, tmp_path / "photo.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.full((20, 30, 3), 60 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    row = {"image": "photos/0.png", "prompt": "caption en"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    valid = tmp_path / "dataset" / "valid"
    valid.mkdir(parents=True)
    shutil.copy(photos / "0.png", valid)
    example = {"image": "0.png", "prefix": "caption en", "suffix": "a cat"}
    (valid / "annotations.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"image": ["photos/1.png"]}), tmp_path / "photos.parquet")
    with shipped_model() as checkpoint:
        shutil.copytree(checkpoint, tmp_path / "checkpoint")
    shutil.copy(tmp_path / "checkpoint" / "mask_decoder.npz", tmp_path / "vae-oid.npz")
    text = json.loads((tmp_path / "checkpoint" / "config.json").read_text(encoding="utf-8"))["text_config"]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    prefix = "base_model.model.language_model.model.layers.0.self_attn.q_proj"
    width, outputs = text["hidden_size"], text["num_attention_heads"] * text["head_dim"]
    factors = {f"{prefix}.lora_A.weight": zeros(2, width), f"{prefix}.lora_B.weight": zeros(outputs, 2)}
    save_file(factors, adapter / "adapter_model.safetensors")
    shutil.copytree(adapter, tmp_path / "other")
    install_onnxruntime_web(tmp_path)
    return tmp_path


def expected_code(line: str) -> int:
    """Return the exit code of a documented command on a machine without a GPU."""
    return 4 if "--device cuda" in line and not line.startswith("paligemma-onnx export") else 0


@pytest.fixture(scope="module")
def finished() -> set[str]:
    """Return the command lines that ran, to run each once per session."""
    return set()


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_run(
    user_folder: Path, finished: set[str], page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a page's commands in processes of their own, after the quickstart's, with the included model."""
    monkeypatch.chdir(user_folder)
    monkeypatch.setenv("PALIGEMMA_ONNX_CACHE", str(user_folder / "cache"))
    lines = commands(ROOT / "docs" / "quickstart.md") + commands(page)
    for line in (HUB_IDS.sub("checkpoint", line) for line in lines if "[" not in line):
        # An archive has the sizes of a published model, too large here; test_jax_export.py runs small ones.
        # A server runs until Ctrl-C; tests/runtime/website/test_server.py ends one.
        if line in finished or "pt_224.npz" in line or "--serve" in line:
            continue
        finished.add(line)
        arguments = shlex.split(line)[1:]
        if arguments[0] == "export":
            arguments += ["--force"]
        result = run_command(*arguments)
        assert result.code == expected_code(line), (line, result.err)
    for drawn in ("found.png", "cut.png"):
        assert (user_folder / drawn).stat().st_size > 1000


def test_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        target for page in PAGES for target in re.findall(r"\bmake ([a-z-]+)", page.read_text("utf-8"))
    }
    targets |= set(re.findall(r"`make ([a-z-]+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert targets >= {"demo", "test", "check", "lint"}
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


# Raised by transformers' processor where it computes labels, which no example uses.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_python_examples_run(
    page: Path,
    bundle: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run each example as it stands, on a bundle and an image of those names."""
    if page.name == "validation.md":
        pytest.skip(
            "its example runs `validate`; tests/export/report/test_validate_report.py checks the keys"
        )
    if page.name == "genai.md":
        pytest.skip("tests/export/layouts/test_genai.py runs its program")
    (tmp_path / "paligemma2-3b").symlink_to(bundle("gemma_one_kv_head"))
    (tmp_path / "photo.jpg").symlink_to(SCENE)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for example in blocks(page, "python"):
        exec(compile(example, page.name, "exec"), namespace)
    assert capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"):
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", page.read_text(encoding="utf-8")
        ):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor.removeprefix("#") in heading_anchors(path), f"{page.name}: {target}{anchor}"


def test_names_in_concepts_exist() -> None:
    """Each concept links to a file and names a class or function in it."""
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./((?:model|runtime|training)/[\w/]+\.py)\)", text)
    assert len(links) > 15
    for name, file in links:
        if not name.endswith(".py"):
            source = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"(class|def) {name.rpartition('.')[2]}\b", source), (name, file)

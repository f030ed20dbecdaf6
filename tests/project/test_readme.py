"""What the README tells a user to type is what the command line and the package understand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from paths import ROOT

from paligemma_onnx.runtime.cli.main import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == ""
    for line in block.splitlines()
    if line.startswith("paligemma-onnx ")
]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


def test_every_command_is_there() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} >= {
        "export",
        "generate",
        "validate",
        "verify",
        "inspect",
        "doctor",
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_understood(line: str) -> None:
    """Options and arguments parse; nothing runs."""
    name, *arguments = shlex.split(line)[1:]
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments, parent=context)


def test_targets_exist() -> None:
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_python_runs(
    bundle: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The snippet as it stands, on a bundle and a picture of those names."""
    (tmp_path / "paligemma2-3b").symlink_to(bundle("gemma_one_kv_head"))
    (tmp_path / "photo.jpg").symlink_to(ROOT / "export" / "demo" / "scene.png")
    monkeypatch.chdir(tmp_path)
    (snippet,) = PYTHON
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_names_in_concepts_exist() -> None:
    """Each concept names a class or function of the file it links to."""
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./(model/\w+\.py)\)", text)
    assert len(links) > 10
    for name, file in links:
        if not name.endswith(".py"):
            assert re.search(rf"(class|def) {name.rpartition('.')[2]}\b", (ROOT / file).read_text()), (
                name,
                file,
            )

"""`optimum-cli export paligemma-onnx`. `.ci/run` runs it with an installed wheel."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import optimum.commands
import pytest
from click.testing import CliRunner
from optimum.commands import optimum_cli
from paths import ROOT

from paligemma_onnx.export.cli.commands import export
from paligemma_onnx.runtime.cli import main

REGISTER = ROOT / "optimum_plugin" / "register"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the command visible to optimum, unless an editable install does it already; return the folder."""
    for name in [name for name in sys.modules if name.startswith("optimum.commands.register")]:
        monkeypatch.delitem(sys.modules, name)
    if importlib.util.find_spec("optimum.commands.register") is not None:
        return REGISTER
    folder = tmp_path / "commands" / "register"
    shutil.copytree(REGISTER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(optimum.commands, "__path__", [*optimum.commands.__path__, str(folder.parent)])
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run `optimum-cli`; return the command line that it passes on."""
    calls: list[list[str]] = []
    monkeypatch.setattr(main, "main", lambda: calls.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *arguments])
    optimum_cli.main()
    (call,) = calls
    return call


@pytest.mark.usefixtures("registered")
def test_it_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (
        "--model",
        "checkpoint",
        "bundle",
        "--precision",
        "int8",
        "--adapter",
        "a",
        "--adapter",
        "b:0.5",
    )
    assert run(monkeypatch, "export", "paligemma-onnx", *arguments, "--no-validate") == [
        *("paligemma-onnx", "export", "checkpoint", "--output", "bundle"),
        *("--precision", "int8", "--adapter", "a", "--adapter", "b:0.5", "--no-validate"),
    ]


@pytest.mark.usefixtures("registered")
def test_every_option_of_the_command_is_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "paligemma-onnx", "--help"])
    with pytest.raises(SystemExit):
        optimum_cli.main()
    help_text = capsys.readouterr().out
    options = {option for parameter in export.params for option in parameter.opts + parameter.secondary_opts}
    missing = {option for option in options if option.startswith("--") and option not in help_text}
    assert missing == {"--output", "--validate"}  # a positional argument, and the default
    result = CliRunner().invoke(export, ["--help"])
    assert result.exit_code == 0


def test_the_folder_stays_a_namespace(registered: Path) -> None:
    """optimum and its plug-ins share the folder, which therefore has no __init__.py."""
    assert [file.name for file in registered.glob("*.py")] == ["paligemma_onnx.py"]

"""Tab completion: in a real bash on a pseudo-terminal, and the answers that zsh and fish receive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import MAIN, run_in_process
from pseudo_terminal import Terminal

from paligemma_onnx.runtime.cli.completion import SHELLS, VARIABLE
from paligemma_onnx.runtime.cli.group import COMMANDS

TAB, CLEAR = "\t", "\x15"  # control-U empties the line
PROMPT = "ready> "


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command, a bundle-like folder and some files."""
    folder = tmp_path_factory.mktemp("completion")
    program = folder / "bin" / "paligemma-onnx"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}{MAIN}\n")
    program.chmod(0o755)
    (folder / "here" / "bundle-of-mine").mkdir(parents=True)
    (folder / "here" / "bunch-of-notes.txt").touch()
    (folder / "here" / "photo.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def env(work: Path) -> dict[str, str]:
    path = f"{work / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PS1": PROMPT, "TERM": "dumb", "INPUTRC": "/dev/null", "HISTFILE": ""}


@pytest.fixture(scope="module")
def bash(work: Path, env: dict[str, str]) -> Iterator[Terminal]:
    """An interactive bash that has sourced the completion script."""
    program = shutil.which("bash")
    assert program is not None, "this test needs bash"
    with Terminal([program, "--noprofile", "--norc", "-i"], env) as terminal:
        terminal.read_until(PROMPT)
        terminal.type(f"cd {work / 'here'}; source <(paligemma-onnx completion bash); echo so''urced\n")
        terminal.read_until("\nsourced")
        yield terminal


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("comp", "completion "),
        ("completion f", "completion fish "),
        ("ins", "inspect "),
        ("validate --ht", "validate --html "),
        ("export --precision int4-c", "--precision int4-compact "),
        ("generate --device cu", "--device cuda "),
        # a file also begins with `bun`, but a bundle is a folder
        ("inspect bun", "inspect bundle-of-mine/"),
        ("generate --model bun", "--model bundle-of-mine/"),
        ("validate x --checkpoint bun", "--checkpoint bundle-of-mine/"),
        ("generate --image ph", "--image photo.jpg "),
        ("validate x --html bunc", "--html bunch-of-notes.txt "),
    ],
)
def test_bash_completes(bash: Terminal, typed: str, shown: str) -> None:
    bash.type(f"{CLEAR}paligemma-onnx {typed}{TAB}")
    bash.read_until(shown)


def test_bash_lists_all_commands(bash: Terminal) -> None:
    bash.type(f"{CLEAR}paligemma-onnx {TAB}{TAB}")
    for name in COMMANDS:
        bash.read_until(f"{name} ", f"{name}\r")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script registers a completion for the command and calls it with the variables that click reads."""
    result = run_in_process(capsys, "completion", shell)
    assert result.code == 0
    for words in ("paligemma-onnx", f"{VARIABLE}={shell}_complete", "COMP_WORDS"):
        assert words in result.out
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --no-files"}[shell] in result.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "words", "cword", "answer"),
    [
        ("zsh", "paligemma-onnx insp", "1", "plain\ninspect\n"),
        ("zsh", "paligemma-onnx inspect bun", "2", "dir\nbun\n"),
        ("fish", "paligemma-onnx insp", "insp", "plain,inspect"),
        ("fish", "paligemma-onnx generate --image ph", "ph", "file,ph"),
    ],
)
def test_what_the_other_shells_are_answered(
    env: dict[str, str], shell: str, words: str, cword: str, answer: str
) -> None:
    """Call the command as the scripts for zsh and fish do; these shells need not be installed."""
    variables = env | {VARIABLE: f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": cword}
    done = subprocess.run(["paligemma-onnx"], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(answer)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_scripts(work: Path, env: dict[str, str], shell: str) -> None:
    """Each installed shell can parse its script; bash must be installed."""
    program = shutil.which(shell)
    if program is None:
        assert shell != "bash"
        print(f"{shell} is not installed: its script was not parsed")
        return
    script = subprocess.run(
        [work / "bin" / "paligemma-onnx", "completion", shell], capture_output=True, check=True
    )
    (work / shell).write_bytes(script.stdout)
    parsed = subprocess.run(
        [program, "-n", work / shell], env=env, capture_output=True, text=True, check=False
    )
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_all_commands_are_listed_with_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    page = run_in_process(capsys, "--help").out
    assert all(name in page and text in " ".join(page.split()) for name, (_, _, text) in COMMANDS.items())

"""Every option of every command: its help, and the environment variable that sets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.core import ParameterSource
from command_line import run_in_process

from paligemma_onnx.runtime import OptionError, PaliGemma
from paligemma_onnx.runtime.cli.group import COMMANDS, VARIABLES, cli
from paligemma_onnx.runtime.cli.parameters import DeviceType, SizeType, TokenIdsType

MAX_LINES, COLUMNS = 80, 100  # two screens of 40 lines
ROOT = click.Context(cli, info_name="paligemma-onnx", **cli.context_settings)


def command(name: str) -> click.Command:
    loaded = cli.get_command(ROOT, name)
    assert loaded is not None
    return loaded


def options() -> Iterator[tuple[str, click.Option]]:
    for name in COMMANDS:
        for param in command(name).params:
            if isinstance(param, click.Option):
                yield name, param


ALL = list(options())


def test_there_are_options_of_every_kind() -> None:
    kinds = {(type(option.type).__name__, option.multiple, option.is_flag) for _, option in ALL}
    assert len(ALL) > 30
    assert {name for name, *_ in kinds} >= {"Path", "Choice", "IntRange", "StringParamType", "BoolParamType"}
    assert {name for name, *_ in kinds} >= {"DeviceType", "SizeType", "TokenIdsType"}
    assert {multiple for _, multiple, _ in kinds} == {False, True}


def sample(option: click.Option) -> tuple[str, Any]:
    """Return a value for the variable that differs from the default, and what the command receives."""
    if option.name == "batches":
        return "3,5", (3, 5)
    if option.is_flag:
        return ("0", False) if option.default is True else ("1", True)
    text, value = sample_value(option.type)
    if not option.multiple:
        return text, value
    separator = ":" if isinstance(option.type, click.Path) else "\n"
    return separator.join((text, text)), (value, value)


CUSTOM: dict[type, tuple[str, Any]] = {
    DeviceType: ("cuda:1", "cuda:1"),
    SizeType: ("1.5GiB", 3 << 29),
    TokenIdsType: ("108, 235", (108, 235)),
}


def sample_value(kind: click.ParamType) -> tuple[str, Any]:
    """Return a value of a type, as text and converted."""
    match kind:
        case click.Choice():
            return str(kind.choices[-1]), kind.choices[-1]
        case click.Path():
            return "a.png", kind.coerce_path_result("a.png")
        case click.types.IntParamType():  # also its ranges
            return "3", 3
        case click.types.FloatParamType():
            return "0.25", 0.25
    return CUSTOM.get(type(kind), ("one", "one"))


@pytest.mark.parametrize(("name", "option"), ALL, ids=[f"{name} {option.opts[0]}" for name, option in ALL])
def test_a_variable_sets_it(name: str, option: click.Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's name follows from the option's; other required parameters are passed as arguments."""
    assert option.name is not None
    text, expected = sample(option)
    monkeypatch.setenv(f"{VARIABLES}_{name.upper()}_{option.name.upper()}", text)
    arguments = []
    for other in command(name).params:
        if other.required and other is not option:
            arguments += [other.opts[0], "x"] if isinstance(other, click.Option) else ["x"]
    context = command(name).make_context(name, arguments, parent=ROOT)
    assert context.get_parameter_source(option.name) == ParameterSource.ENVIRONMENT
    assert context.params[option.name] == expected
    assert option.get_default(context) != expected


def test_a_variable_of_no_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{VARIABLES}_DEBUG", "1")
    assert "Traceback" in run_in_process(capsys, "inspect", Path("absent")).err


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The help is short, describes every option, and shows the variable of one of the command's options."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    page = run_in_process(capsys, *name.split(), "--help").out
    lines = page.splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= COLUMNS
    options = [option for owner, option in ALL if owner == name]
    if options:
        variable, flag = re.search(rf"({VARIABLES}\w+)\s+sets\s+(--[\w-]+)", page).groups()  # type: ignore[union-attr]
        named = {f"{VARIABLES}_{name.upper()}_{option.name.upper()}": option.opts for option in options}  # type: ignore[union-attr]
        assert flag in named[variable]
    for option in options:
        assert option.help
        assert option.opts[0] in page


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 << 30),
        ("12 gib", 12 << 30),
        ("12G", 12 * 10**9),
        ("800MB", 800 * 10**6),
        ("1.5KiB", 1536),
        ("4096", 4096),
        ("4096B", 4096),
        ("2TiB", 2 << 40),
    ],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert SizeType().convert(text, None, None) == size


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("export", "checkpoint", "--output", ""), "--output"),
        (("generate", "--model", "", "--image", "a.png", "caption en"), "--model"),
        (("detect", "--model", "b", "--image", "a.png", "--draw", "", "cat"), "--draw"),
        (("verify", ""), "BUNDLE"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_in_process(capsys, *arguments)
    assert (result.code, f"Invalid value for '{name}': the path is empty" in result.error) == (2, True)


@pytest.mark.parametrize("command", ["generate", "detect", "segment"])
@pytest.mark.parametrize("options", [(), ("--low-memory",)])
def test_low_memory_reaches_the_model(
    command: str,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded: list[object] = []

    def load(_bundle: Path, **arguments: object) -> None:
        loaded.append(arguments["low_memory"])
        raise OptionError("loading ends here")

    monkeypatch.setattr(PaliGemma, "load", load)
    result = run_in_process(capsys, command, "--model", "b", "--image", "i.png", "cat", *options)
    assert (result.code, loaded) == (2, [bool(options)]), result.error

"""Parameters that commands share, and the types of their values. The module imports no large library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..engine.devices import DEVICES, MAX_BYTES, MAX_THREADS, parse_device
from ..errors import OptionError
from .completion import complete_folders

Command = Callable[..., object]

_SIZE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?(?P<unit>([KMGT]i?)?)B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class DeviceType(click.ParamType[str]):
    """A device name: `auto`, `cpu`, `cuda` or `cuda:N`."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name unchanged, or fail if it is not a device name."""
        try:
            parse_device(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        """Return the device names without a GPU number that begin with `incomplete`."""
        return [CompletionItem(name) for name in DEVICES if name.startswith(incomplete)]


class SizeType(click.ParamType[int]):
    """A number of bytes with an optional unit: `12GiB`, `1.5GB`, `800MB` or `4096`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes. KiB, MiB, ... are powers of 1024; KB, MB, ... are powers of 1000."""
        match = _SIZE.fullmatch(str(value))
        unit = match["unit"].lower() if match else ""
        base = 1024 if unit.endswith("i") else 1000
        size = float(match["number"]) * base ** _POWERS[unit[:1]] if match else 0.0
        if not 1 <= size <= MAX_BYTES:
            self.fail(f"{value!r} is not a memory size such as 12GiB or 800MB", param, ctx)
        return int(size)


class PathType(click.Path):
    """A path. An empty text, such as an unset shell variable, is an error and not the current folder."""

    def __init__(self, *, dir_okay: bool = True, readable: bool = True, path_type: type = Path) -> None:
        super().__init__(dir_okay=dir_okay, readable=readable, path_type=path_type)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail if it is empty."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class TextType(click.types.StringParamType):
    """A text in any language, also if the locale has only ASCII."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. If the locale's encoding cannot represent its bytes, read them as UTF-8.

        Python represents each of these bytes by half of a surrogate pair. If the bytes are not UTF-8, the
        text is returned unchanged.
        """
        text: str = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            with suppress(UnicodeError):
                return os.fsencode(text).decode()
        return text


class LinesType(TextType):
    """Text option with several values; an environment variable contains one value per line."""

    envvar_list_splitter = "\n"


class TokenIdsType(click.ParamType[tuple[int, ...]]):
    """Token ids with commas between them: `108,235`. An empty text stands for no ids."""

    name = "token ids"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the ids, or fail if the text is not a list of whole numbers."""
        parts = [part.strip() for part in str(value).split(",")] if str(value).strip() else []
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            self.fail(f"{value!r} is not a list of token ids such as 108,235", param, ctx)
        return tuple(map(int, parts))


IMAGE = PathType(readable=False, path_type=str)  # the runtime reports what it cannot read
BUNDLE = click.argument("bundle", type=PathType(), shell_complete=complete_folders)
JSON = click.option("--json", is_flag=True, help="Print the result as one JSON object.")
PACKAGES = click.option(
    "--packages",
    metavar="FOLDER",
    type=PathType(),
    default=".",
    show_default="current folder",
    help="Folder in which `npm install` was run. The folders above it are searched, too.",
)
THREADS = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, MAX_THREADS),
    show_default="all CPUs",
    help="Number of CPU threads.",
)


def device_option(default: str) -> Callable[[Command], Command]:
    """Return the option --device with a default."""
    return click.option(
        "--device",
        metavar="DEVICE",
        type=DeviceType(),
        default=default,
        help="cpu, cuda, cuda:N (GPU number N), or auto: CUDA if usable, else cpu.",
    )

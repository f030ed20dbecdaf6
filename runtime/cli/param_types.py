"""Values of options: a device, and an amount of memory."""

from __future__ import annotations

import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..engine.devices import DEVICES, parse_device
from ..errors import OptionError

_AMOUNT = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?(?P<unit>([KMGT]i?)?)B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class DeviceType(click.ParamType[str]):
    """`auto`, `cpu`, `cuda` or, of several GPUs, `cuda:1`."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it is; what is none fails."""
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
        """Names that begin so; a GPU's number is for whoever has several to say."""
        return [CompletionItem(name) for name in DEVICES if name.startswith(incomplete)]


class AmountType(click.ParamType[int]):
    """Bytes: `12GiB`, `1.5GB`, `800MB`, or a number of them."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes; KiB and its like are of 1024, KB of 1000."""
        found = _AMOUNT.fullmatch(str(value))
        unit = found["unit"].lower() if found else ""
        base = 1024 if unit.endswith("i") else 1000
        size = int(float(found["number"]) * base ** _POWERS[unit[:1]]) if found else 0
        if size == 0:
            self.fail(f"{value!r} is not an amount of memory such as 12GiB or 800MB", param, ctx)
        return size

"""Options that several commands share, and the objects that commands receive instead of single values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..graphs.open_runner import ENGINES
from ..image.quiet import silence_libraries
from ..paligemma import PaliGemma
from .completion import complete_folders
from .parameters import THREADS, Command, PathType, SizeType, device_option

MODEL = click.option(
    "--model",
    metavar="BUNDLE",
    type=PathType(),
    required=True,
    shell_complete=complete_folders,
    help="Bundle folder written by `export`.",
)
ENGINE = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="onnxruntime",
    help="Library that runs the graphs. openvino runs fp32 and int4-portable bundles, on the CPU.",
)
_DEVICE = (
    device_option("auto"),
    THREADS,
    click.option(
        "--gpu-memory",
        metavar="SIZE",
        type=SizeType(),
        show_default="no limit",
        help="Limit the GPU memory for weights, graphs and KV caches, e.g. 12GiB or 800MB.",
    ),
    click.option(
        "--low-memory",
        is_flag=True,
        help="Map the prepared weights of vision and prefill only while they run. CPU only.",
    ),
)


@dataclass(frozen=True)
class DeviceOptions:
    """The device that a bundle runs on, and its limits."""

    name: str  # value of `--device`
    threads: int | None  # None: all CPUs available to the process
    memory_limit: int | None  # bytes of GPU memory; None: no limit
    low_memory: bool = False  # value of `--low-memory`

    def load(self, bundle: Path, engine: str = "onnxruntime") -> PaliGemma:
        """Return a loaded bundle. This method raises the same errors as `PaliGemma.load`."""
        silence_libraries()
        return PaliGemma.load(
            bundle,
            device=self.name,
            threads=self.threads,
            memory_limit=self.memory_limit,
            engine=engine,
            low_memory=self.low_memory,
        )


def device_options(command: Command) -> Command:
    """Add the device options to a command, which receives them as `device`, a `DeviceOptions`."""

    @wraps(command)
    def with_device(
        *, device: str, threads: int | None, gpu_memory: int | None, low_memory: bool, **arguments: Any
    ) -> object:
        return command(device=DeviceOptions(device, threads, gpu_memory, low_memory), **arguments)

    return add_options(with_device, *_DEVICE)


def add_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options (or arguments) to a command so that the help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command

"""The `conformance` command: run a bundle's graphs in other ONNX runtimes and compare the results."""

from __future__ import annotations

from json import dumps
from pathlib import Path

import click

from ..conformance.adapters import ADAPTERS
from ..conformance.compare import Settings, compare_runtimes
from ..conformance.results import facts, table
from ..console import echo, echo_stderr, printable
from ..diagnostics.machine import this_machine
from ..errors import MismatchError, ProviderError
from .parameters import BUNDLE, IMAGE, JSON, PathType, TextType

NAMES = tuple(adapter.name for adapter in ADAPTERS)


@click.command()
@BUNDLE
@click.option(
    "--runtime",
    "names",
    metavar="NAME",
    type=click.Choice(NAMES),
    multiple=True,
    show_default="every runtime that is installed",
    help=f"Runtime, repeatable: {', '.join(NAMES)}.",
)
@click.option("--image", "images", metavar="FILE", type=IMAGE, multiple=True, help="Image file, repeatable.")
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    type=TextType(),
    multiple=True,
    show_default="one per kind of task",
    help="Prompt, repeatable. Every prompt is asked about every image.",
)
@click.option(
    "--tokens",
    metavar="N",
    type=click.IntRange(1, 256),
    default=8,
    help="Number of decode steps of each prompt.",
)
@click.option(
    "--packages",
    metavar="FOLDER",
    type=PathType(),
    default=".",
    show_default="current folder",
    help="Folder in which `npm install` was run. Node searches the folders above it, too.",
)
@JSON
def conformance(
    bundle: Path,
    names: tuple[str, ...],
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    tokens: int,
    packages: Path,
    json: bool,
) -> None:
    """Run BUNDLE in other ONNX runtimes and compare them with onnxruntime on the CPU.

    Runs the graphs in every runtime on the same inputs. Reports the largest relative error of each graph, the
    answers with equal token ids, missing operators and seconds. A runtime that is not installed is listed
    with the command that installs it. Exits with code 6 if a runtime differs, or if a runtime that --runtime
    names does not run every graph.
    """
    adapters = [adapter for adapter in ADAPTERS if not names or adapter.name in names]
    settings = Settings(tuple(map(Path, images)), prompts, tokens, packages)
    machine = this_machine()
    system = f"{machine.system}, {machine.processor}"
    result = compare_runtimes(bundle, adapters, settings, system, echo_stderr)
    lines = table(result).split("\n")
    echo(dumps(facts(result)) if json else "\n".join(map(printable, lines)))
    outcomes = {runtime.name: result.outcome(runtime) for runtime in result.runtimes}
    if missing := [name for name in names if outcomes[name] == "not installed"]:
        raise ProviderError(f"{', '.join(missing)}: not installed; the result shows the command")
    if bad := [
        name for name, outcome in outcomes.items() if outcome == "differs" or (names and outcome != "agrees")
    ]:
        raise MismatchError(f"{bundle}: these runtimes differ or do not run every graph: {', '.join(bad)}")

"""The `conformance` command: run exported graphs in other ONNX runtimes and compare the results."""

from __future__ import annotations

from json import dumps
from pathlib import Path

import click

from ..conformance.adapters import ADAPTERS
from ..conformance.compare import Settings, compare_runtimes
from ..conformance.graph_set import read_graph_set
from ..conformance.results import facts, table
from ..console import echo, echo_stderr, printable
from ..diagnostics.machine import this_machine
from ..errors import MismatchError, ProviderError
from .parameters import BUNDLE, IMAGE, JSON, PACKAGES, LinesType

NAMES = tuple(adapter.name for adapter in ADAPTERS)


@click.command()
@BUNDLE
@click.option(
    "--runtime",
    metavar="NAME",
    type=click.Choice(NAMES),
    multiple=True,
    show_default="every runtime that is installed",
    help=f"Runtime, repeatable: {', '.join(NAMES)}.",
)
@click.option("--image", metavar="FILE", type=IMAGE, multiple=True, help="Image file, repeatable.")
@click.option(
    "--prompt",
    metavar="TEXT",
    type=LinesType(),
    multiple=True,
    show_default="one per kind of task",
    help="Prompt, repeatable. The runtimes answer every prompt about every image.",
)
@click.option(
    "--tokens",
    metavar="N",
    type=click.IntRange(1, 256),
    default=8,
    help="Number of decode steps of each prompt.",
)
@PACKAGES
@click.option(
    "--dtype",
    metavar="NAME",
    show_default="the folder's default",
    help="Number format, if the folder is a layout: fp32, fp16, q8 or q4, as exported.",
)
@JSON
def conformance(
    bundle: Path,
    runtime: tuple[str, ...],
    image: tuple[str, ...],
    prompt: tuple[str, ...],
    tokens: int,
    packages: Path,
    dtype: str | None,
    json: bool,
) -> None:
    """Run BUNDLE in other ONNX runtimes and compare them with onnxruntime on the CPU.

    BUNDLE may also be a folder that `export --layout` wrote for another tool.

    Runs the graphs in every runtime on the same inputs. Reports the largest relative error of each graph, the
    answers with equal token ids, missing operators and seconds. A runtime that is not installed is listed
    with the command that installs it. Exits with code 6 if a runtime differs, or if a runtime that --runtime
    names does not run every graph, and with code 4 if such a runtime is not installed.
    """
    adapters = [adapter for adapter in ADAPTERS if not runtime or adapter.name in runtime]
    settings = Settings(tuple(map(Path, image)), prompt, tokens, packages)
    machine = this_machine()
    system = f"{machine.system}, {machine.processor}"
    graph_set = read_graph_set(bundle, dtype)
    result = compare_runtimes(graph_set, adapters, settings, system, echo_stderr)
    lines = table(result).split("\n")
    echo(dumps(facts(result)) if json else "\n".join(map(printable, lines)))
    outcomes = {each.name: result.outcome(each) for each in result.runtimes}
    if missing := [name for name in runtime if outcomes[name] == "not installed"]:
        raise ProviderError(f"{', '.join(missing)}: not installed; the result shows the command")
    accepted = ("agrees",) if runtime else ("agrees", "incomplete", "not installed")
    if bad := [name for name, outcome in outcomes.items() if outcome not in accepted]:
        raise MismatchError(f"{bundle}: these runtimes differ or do not run every graph: {', '.join(bad)}")

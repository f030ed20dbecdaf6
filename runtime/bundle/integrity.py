"""Is a bundle whole? Sizes, graphs and tokenizer at every load, every byte on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..engine.session import place
from ..errors import BundleError
from ..graphs.onnx_runner import GraphRunner
from .files import file_problem
from .graph_interface import check_file
from .manifest import Manifest, read_manifest

MOST_PROBLEMS = 10  # named in one message


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as long as the manifest says, and those but the weights are byte by byte.

    A graph with one bit changed may well load, and answer something else. Reading graphs and tokenizer takes
    less time than parsing them; the weights are gigabytes and wait for `verify`.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    small = (*(graph.file for graph in manifest.graphs.every), manifest.tokens.file)
    files = manifest.files.items()
    _raise(folder, [file_problem(folder / name, spec, hashed=name in small) for name, spec in files])


def check_every_byte(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> None:
    """Every file is the exporter's.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    problems = []
    for name, spec in manifest.files.items():
        progress(f"checking {name}")
        problems.append(file_problem(folder / name, spec, hashed=True))
    _raise(folder, problems)


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Every byte is the exporter's, and every graph has the inputs and outputs the manifest declares.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    manifest = read_manifest(folder)
    check_every_byte(folder, manifest, progress)
    progress("checking graphs")
    if "cpu" in manifest.recipe.devices:
        GraphRunner.open(folder, manifest, place("cpu", None))
    else:  # the device may not be here, and would take its time
        for graph in manifest.graphs.every:
            check_file(folder / graph.file, graph, manifest.bundle_id)
    return manifest


def _raise(folder: Path, found: list[str | None]) -> None:
    problems = [problem for problem in found if problem is not None]
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        named = "; ".join(problems[:MOST_PROBLEMS])
        raise BundleError(f"{folder}: {named}{more}; copy the bundle again, or export it again")

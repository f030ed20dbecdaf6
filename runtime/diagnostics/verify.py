"""The `verify` command: compare every byte of a bundle with its manifest and open every graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..bundle.graph_interface import check_file
from ..bundle.integrity import check_every_byte
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..engine.devices import choose_placement
from ..graphs.onnx_runner import OnnxModelRunner


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Every byte is the exporter's, and every graph has the inputs and outputs the manifest declares.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    manifest = read_manifest(folder)
    check_every_byte(folder, manifest, progress)
    progress("checking graphs")
    if "cpu" in manifest.recipe.devices:
        OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))
    else:  # the device may not be here, and would take its time
        for graph in manifest.graphs.every:
            check_file(folder / graph.file, graph, manifest.bundle_id)
    return manifest

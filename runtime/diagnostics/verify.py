"""The `verify` command: compare every byte of a bundle with its manifest, and open graphs for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..bundle.integrity import check_hashes
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..engine.devices import choose_placement
from ..graphs.onnx_runner import OnnxModelRunner


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Compare every byte with the manifest; open graphs for the CPU and compare their inputs and outputs.

    Graphs for CUDA are not opened: there may be no GPU here. Their hashes show that they are the exporter's.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    manifest = read_manifest(folder)
    check_hashes(folder, manifest, progress)
    if "cpu" in manifest.precision.devices:
        progress("checking graphs")
        OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))
    return manifest

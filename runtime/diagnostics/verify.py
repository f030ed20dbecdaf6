"""The `verify` command: compare every byte of a bundle with its manifest, and open the graphs.

Only graphs that run on a CPU are opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..bundle.integrity import check_hashes
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..engine.devices import choose_placement
from ..graphs.onnx_runner import OnnxModelRunner


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Compare every byte of a bundle with its manifest, and return the manifest.

    Graphs that run on a CPU are opened, and their inputs and outputs are compared with the manifest. Graphs
    for CUDA are not opened, because this machine may have no GPU. The hashes of the graphs for CUDA show that
    they are unchanged since the export.

    Raises:
        BundleError: files are missing, of another size, or altered. The message names each of these files.
    """
    manifest = read_manifest(folder)
    check_hashes(folder, manifest, progress)
    if "cpu" in manifest.precision.devices:
        progress("checking graphs")
        OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))
    return manifest

"""The `verify` command: compare every byte of a bundle with its manifest, and open the graphs.

Only graphs that run on a CPU are opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..atomic_file import temporary_folder
from ..bundle.integrity import check_hashes
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..engine.devices import choose_placement
from ..errors import BundleError
from ..graphs.onnx_runner import OnnxModelRunner

# The name of a weight file in a serialized graph: a StringStringEntryProto of onnx.proto. Its field 1 is the
# key "location". Its field 2 is the name, after its length in one byte.
_LOCATION = re.compile(rb"\x0a\x08location\x12(?=(.{1,128}))", re.DOTALL)


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Compare every byte of a bundle with its manifest, and return the manifest.

    Graphs that run on a CPU are opened, and their inputs and outputs are compared with the manifest. They are
    opened in a folder that has only the files that the manifest lists, so that no weights come from
    another file. Graphs for CUDA are not opened, because this machine may have no GPU. The hashes of the
    graphs for CUDA show that they are unchanged since the export, and the names of their weight files are
    compared with the manifest.

    Raises:
        BundleError: files are missing, of another size, or altered (the message names each of these files);
            or the weights of a graph are in a file that the manifest does not list.
    """
    manifest = read_manifest(folder)
    check_hashes(folder, manifest, progress)
    if "cpu" in manifest.precision.devices:
        progress("checking graphs")
        with _listed_files(folder, manifest, progress) as listed:
            try:
                OnnxModelRunner.open(listed, manifest, choose_placement("cpu", None))
            except BundleError as error:
                raise BundleError(str(error).replace(str(listed), str(folder))) from error
    else:
        _check_weight_files(folder, manifest)
    return manifest


def _check_weight_files(folder: Path, manifest: Manifest) -> None:
    for graph in manifest.graphs.distinct:
        for rest in _LOCATION.findall((folder / graph.file).read_bytes()):
            name = rest[1 : 1 + rest[0]].decode(errors="replace")
            if name not in manifest.files:
                raise BundleError(
                    f"{folder / graph.file}: its weights are in {name!a}, which the manifest does not list; "
                    "export the checkpoint again"
                )


@contextmanager
def _listed_files(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> Iterator[Path]:
    """Yield a temporary folder with links to the files that the manifest lists.

    If links cannot be created, report this and yield the bundle's folder.
    """
    with ExitStack() as stack:
        try:
            listed = stack.enter_context(temporary_folder())
            for name in manifest.files:
                (listed / name).symlink_to((folder / name).resolve())
        except OSError as error:
            progress(
                f"cannot create links in a temporary folder ({error.strerror}), so weights in files that the "
                "manifest does not list are not detected"
            )
            listed = folder
        yield listed

"""The `verify` command: compare every byte of a bundle with its manifest, and open the graphs.

Only graphs that run on a CPU are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..bundle.integrity import check_hashes
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..engine.devices import choose_placement
from ..errors import BundleError
from ..graphs.onnx_runner import OnnxModelRunner


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Compare every byte of a bundle with its manifest, and return the manifest.

    Graphs that run on a CPU are opened, and their inputs and outputs are compared with the manifest. They are
    opened in a folder that has only the files that the manifest lists, so that no weights come from
    another file. Graphs for CUDA are not opened, because this machine may have no GPU. The hashes of the
    graphs for CUDA show that they are unchanged since the export.

    Raises:
        BundleError: files are missing, of another size, or altered. The message names each of these files.
            Or the weights of a graph are in a file that the manifest does not list.
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
    return manifest


@contextmanager
def _listed_files(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> Iterator[Path]:
    """Return a temporary folder with links to the files that the manifest lists.

    If no links can be made, report this and return the bundle's folder.
    """
    with ExitStack() as stack:
        try:
            listed = Path(stack.enter_context(TemporaryDirectory(prefix="paligemma-onnx-")))
            for name in manifest.files:
                (listed / name).symlink_to((folder / name).resolve())
        except OSError as error:
            progress(f"no links in a temporary folder ({error.strerror}): unlisted weights are not noticed")
            listed = folder
        yield listed

"""The `verify` command: compare every byte of a bundle or layout with its manifest, and open the graphs.

Only graphs that run on a CPU are opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..atomic_file import temporary_folder
from ..bundle.integrity import check_hashes
from ..bundle.layout_record import FLOAT16, FLOAT32, LayoutRecord, check_layout_files
from ..bundle.manifest import read_manifest
from ..bundle.schema import FileSpec, GraphSpec, Manifest
from ..engine.devices import choose_placement
from ..engine.session import open_session
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
        with _listed_files(folder, manifest.files, progress) as listed:
            OnnxModelRunner.open(listed, manifest, choose_placement("cpu", None))
    else:
        _check_weight_files(folder, manifest.graphs.distinct, manifest.files)
    return manifest


@dataclass(frozen=True)
class _LayoutFacts:
    """The facts of a layout that opening a graph needs (`SessionFacts`)."""

    bundle_id: str  # id of the layout
    is_float32: bool  # whether every matrix is float32


def verify_layout(folder: Path, progress: Callable[[str], object]) -> LayoutRecord:
    """Compare every byte of a layout with its record, open the graphs, and return the record.

    Graphs of float16 are for GPUs: to open them on a CPU, onnxruntime would convert all weights to float32.
    So they are checked as graphs for CUDA are.

    Raises:
        BundleError: as `verify` raises.
    """
    record = check_layout_files(folder, progress)
    progress("checking graphs")
    placement = choose_placement("cpu", None)
    with _listed_files(folder, record.files, progress) as listed:
        for dtype, graphs in record.graphs.items():
            if dtype == FLOAT16:
                _check_weight_files(folder, graphs.by_name.values(), record.files)
                continue
            for graph in graphs.by_name.values():
                open_session(listed, graph, _LayoutFacts(record.layout_id, dtype == FLOAT32), placement)
    return record


def _check_weight_files(folder: Path, graphs: Iterable[GraphSpec], files: Mapping[str, FileSpec]) -> None:
    for graph in graphs:
        for rest in _LOCATION.findall((folder / graph.file).read_bytes()):
            name = rest[1 : 1 + rest[0]].decode(errors="replace")
            if str(PurePosixPath(graph.file).parent / name) not in files:
                raise BundleError(
                    f"{folder / graph.file}: its weights are in {name!a}, which the manifest does not list; "
                    "export the checkpoint again"
                )


@contextmanager
def _listed_files(folder: Path, files: Iterable[str], progress: Callable[[str], object]) -> Iterator[Path]:
    """Yield a temporary folder with links to the listed files. Errors of the block name `folder` instead.

    If links cannot be created, report this and yield the folder itself.
    """
    with ExitStack() as stack:
        try:
            listed = stack.enter_context(temporary_folder())
            for name in files:
                (listed / name).parent.mkdir(parents=True, exist_ok=True)
                (listed / name).symlink_to((folder / name).resolve())
        except OSError as error:
            progress(
                f"cannot create links in a temporary folder ({error.strerror}), so weights in files that the "
                "manifest does not list are not detected"
            )
            listed = folder
        try:
            yield listed
        except BundleError as error:
            raise BundleError(str(error).replace(str(listed), str(folder))) from error

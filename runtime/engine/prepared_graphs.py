"""Sessions that open quickly: what the engine works out when it opens a graph, kept for the next time.

Opening a graph of a small precision, the engine optimises it and brings every matrix into the order that the
kernels of this processor read, which takes seconds and private memory. It can write what it has worked out to
files and map them later. These files fit one processor and one version of the engine, and take more room than
the bundle; so they stand in the user's cache, under a name made of all that they depend on, and are written
when asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ..atomic_file import publish_folder
from ..bundle.integrity import check_every_byte, file_problem, record_file
from ..bundle.manifest import read_manifest
from ..bundle.schema import FileSpec, Manifest
from ..errors import BundleError, OptionError, ResourceError
from ..resource_errors import translate_resource_errors
from .devices import Placement, choose_placement
from .ort import import_onnxruntime
from .session import open_session, prepared_name, write_session

CACHE = "PALIGEMMA_ONNX_CACHE"  # environment variable: a folder to use in place of the system's
CONTENT = "content.json"  # written last: a folder without it is not complete
GRAPH = ".onnx"
KEY_LENGTH = 32  # hexadecimal digits
# The engine writes every matrix twice, as it was and in its new order, which has scales or sums beside it.
ROOM = 2.5  # times the bundle
FULL = 1 << 24  # bytes: a disk with less is full
FORMAT = "2"  # of what stands in the files; another one when the options of sessions change
STALE = 86_400.0  # seconds after which an unfinished folder is one of a process that was killed


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did."""

    folder: str
    bytes: int
    seconds: float


def find_prepared(manifest: Manifest, placement: Placement) -> Path | None:
    """The folder of a bundle's prepared graphs for this machine; None if there is none that is whole."""
    if placement.device != "cpu" or manifest.precision.is_float32:
        return None
    folder = _folder(manifest)
    try:
        content = json.loads((folder / CONTENT).read_bytes())
        specs = {name: FileSpec(**spec) for name, spec in content.items()}
        problems = [
            file_problem(folder / name, spec, hashed=name.endswith(GRAPH)) for name, spec in specs.items()
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    missing = {prepared_name(graph) for graph in manifest.graphs.different} - specs.keys()
    return None if missing or any(problems) else folder


def prepare(bundle: Path, progress: Callable[[str], object]) -> Preparation:
    """Write a bundle's graphs as this machine's processor wants them, so that they open quickly from now on.

    Several processes may do so at once; each writes a folder of its own, and the last one to finish is kept.

    Args:
        bundle: the folder; it is not written to.
        progress: told what comes next.

    Raises:
        BundleError: the bundle is incomplete or damaged.
        OptionError: there is nothing to prepare, or the cache cannot be written.
        ResourceError: out of disk or memory.
    """
    started = time.perf_counter()
    manifest = read_manifest(bundle)
    if manifest.precision.is_float32:
        raise OptionError(f"{bundle}: fp32 graphs are mapped as they are; there is nothing to prepare")
    if "cpu" not in manifest.precision.devices:
        raise OptionError(f"{bundle}: its graphs are for a GPU; there is nothing to prepare")
    check_every_byte(bundle, manifest, progress)  # what is made from a damaged file would outlive it
    placement = choose_placement("cpu", None)
    final = _folder(manifest)
    with translate_resource_errors(str(final.parent)), _partly(final) as folder:
        needed = int(ROOM * sum(spec.bytes for spec in manifest.files.values()))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ResourceError(
                f"{final.parent}: prepared graphs need about {needed:,} bytes, {free:,} are free; "
                f"free space, or set {CACHE} to another folder"
            )
        for graph in manifest.graphs.different:
            progress(f"preparing {graph.file}")
            try:
                write_session(bundle, graph, manifest, placement, folder)
                open_session(bundle, graph, manifest, placement, prepared=folder)  # raises if not whole
            except BundleError as error:  # the engine says the same of a full disk
                if shutil.disk_usage(folder).free < FULL:
                    raise ResourceError(f"{final.parent}: the disk is full; free space there") from error
                raise
        written = {
            path.name: record_file(path, hashed=path.suffix == GRAPH) for path in sorted(folder.iterdir())
        }
        content = json.dumps({name: asdict(spec) for name, spec in written.items()})
        (folder / CONTENT).write_text(content, encoding="utf-8")
        publish_folder(folder, final)
    size = sum(spec.bytes for spec in written.values())
    return Preparation(str(final), size, time.perf_counter() - started)


def forget(bundle: Path) -> Path | None:
    """Remove a bundle's prepared graphs of this machine: where they were, None if there were none."""
    folder = _folder(read_manifest(bundle))
    if not folder.exists():
        return None
    shutil.rmtree(folder)
    return folder


def _folder(manifest: Manifest) -> Path:
    """Where prepared graphs of a bundle are; the name holds everything that decides what is in them."""
    ort = import_onnxruntime()
    facts = (FORMAT, manifest.bundle_id, ort.__version__, ort.get_build_info(), _processor())
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:KEY_LENGTH]
    root = os.environ.get(CACHE)
    return (Path(root) if root else user_cache_path("paligemma-onnx")) / "prepared" / key


def _processor() -> str:
    """The processor and its instructions, which decide what order its kernels read."""
    told = [platform.machine(), platform.processor()]
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "\n".join(told)
    first = cpuinfo.partition("\n\n")[0]
    told += [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(told)


@contextmanager
def _partly(final: Path) -> Iterator[Path]:
    """A folder beside the final one to write into, which is gone in the end unless it got its name."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{'[0-9a-f]' * KEY_LENGTH}.*"):  # as the next line but one names them
            with suppress(FileNotFoundError):  # another process has finished
                if time.time() - left.stat().st_mtime > STALE:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(".staging", f".{final.name}.", final.parent))
    except OSError as error:
        raise OptionError(
            f"{final.parent}: cannot be written ({error.strerror}); set {CACHE} to another folder"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

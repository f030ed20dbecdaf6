"""Cache a bundle's graphs on disk in the optimised form that onnxruntime makes when it opens them.

When onnxruntime opens a quantised graph, it optimises the graph and reorders every matrix for the kernels of
this processor, which takes seconds and private memory. onnxruntime can write the result to files, and later
map these files. They fit only one processor and one version of onnxruntime, and take more space than the
bundle. So they are written only on request. They go to the user's cache folder, into a folder whose name is a
hash of everything that the files depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ..atomic_file import publish_folder, temporary_folder
from ..bundle.integrity import check_hashes, file_problem, read_file_spec
from ..bundle.manifest import read_manifest
from ..bundle.schema import FileSpec, Manifest
from ..bundle.tensor_table import packed_bytes, read_tensor_table
from ..errors import BundleError, OptionError, ResourceError
from ..resource_errors import translate_resource_errors
from .devices import Placement, choose_placement
from .ort import import_onnxruntime
from .session import open_session, prepared_name, write_session

CACHE = "PALIGEMMA_ONNX_CACHE"  # environment variable: a folder that replaces the system's cache folder
CONTENT = "content.json"  # written last: a folder without it is incomplete
GRAPH_SUFFIX = ".onnx"
KEY_DIGITS = 32  # hexadecimal digits of a folder's name
# onnxruntime writes every matrix twice: in its original order, and in the order of the kernels with scales or
# sums added.
SPACE_FACTOR = 2.5  # disk space of prepared graphs divided by disk space of the bundle
MAX_CONTENT_BYTES = 1 << 20  # CONTENT has about 1,000 bytes
MIN_FREE_BYTES = 1 << 24  # a disk with less free space is reported as full
FORMAT = "2"  # version of the files; change it with the session options
MAX_STAGING_AGE_S = 86_400.0  # older staging folders belong to processes that were killed


@dataclass(frozen=True)
class Preparation:
    """Result of `prepare`."""

    folder: str
    bytes: int
    seconds: float


def find_prepared(manifest: Manifest, placement: Placement) -> Path | None:
    """Return the folder of a bundle's prepared graphs for this machine.

    Prepared graphs are optional: if they are missing or damaged, or if the user has no cache folder,
    the result is None.

    Raises:
        ProviderError: onnxruntime is not installed.
    """
    if placement.device != "cpu" or manifest.precision.is_float32:
        return None
    try:
        folder = _prepared_folder(manifest)
        content = json.loads(_read_small_file(folder / CONTENT))
        specs = {name: FileSpec(**spec) for name, spec in content.items()}
        problems = [
            file_problem(folder / name, spec, hashed=name.endswith(GRAPH_SUFFIX))
            for name, spec in specs.items()
        ]
    except (OptionError, OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    missing = {prepared_name(graph) for graph in manifest.graphs.distinct} - specs.keys()
    return None if missing or any(problems) else folder


def prepare(bundle: Path, progress: Callable[[str], object]) -> Preparation:
    """Prepare a bundle's graphs for this processor, so that they open quickly.

    The prepared graphs store weights in the order of the processor's kernels. Several processes may prepare
    the same bundle at the same time: each process writes a folder, and the last folder replaces the others.

    Args:
        bundle: folder of the bundle; nothing is written to it.
        progress: called with a line of text before each step.

    Raises:
        BundleError: the bundle is incomplete or damaged.
        OptionError: the bundle has no graph to prepare, or no cache folder can be written.
        ResourceError: out of disk or memory.
    """
    started = time.perf_counter()
    manifest = read_manifest(bundle)
    if manifest.precision.is_float32:
        raise OptionError(f"{bundle}: fp32 graphs are mapped as they are; there is nothing to prepare")
    if "cpu" not in manifest.precision.devices:
        raise OptionError(f"{bundle}: its graphs are for a GPU; there is nothing to prepare")
    final = _prepared_folder(manifest)
    check_hashes(bundle, manifest, progress)  # a damaged graph in the cache would be used later
    placement = choose_placement("cpu", None)
    with translate_resource_errors(str(final.parent)), _staging_folder(final) as folder:
        needed = int(SPACE_FACTOR * packed_bytes(manifest, read_tensor_table(bundle, manifest)))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ResourceError(
                f"{final.parent}: prepared graphs need about {needed:,} bytes, {free:,} are free; "
                f"free space, or set {CACHE} to another folder"
            )
        for graph in manifest.graphs.distinct:
            progress(f"preparing {graph.file}")
            try:
                write_session(bundle, graph, manifest, placement, folder)
                open_session(
                    bundle, graph, manifest, placement, prepared=folder
                )  # raises if the prepared graph is incomplete
            except BundleError as error:  # onnxruntime reports a full disk as if the graph were damaged
                if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
                    raise ResourceError(f"{final.parent}: the disk is full; free space there") from error
                raise
        specs = {
            path.name: read_file_spec(path, hashed=path.suffix == GRAPH_SUFFIX)
            for path in sorted(folder.iterdir())
        }
        content = json.dumps({name: asdict(spec) for name, spec in specs.items()})
        (folder / CONTENT).write_text(content, encoding="utf-8")
        publish_folder(folder, final)
    size = sum(spec.bytes for spec in specs.values())
    return Preparation(str(final), size, time.perf_counter() - started)


def remove_prepared(bundle: Path) -> Path | None:
    """Remove a bundle's prepared graphs for this machine; return the removed folder or None.

    Raises:
        BundleError: the bundle's manifest is missing or damaged.
        OptionError: the user has no cache folder, or the prepared graphs cannot be removed.
    """
    folder = _prepared_folder(read_manifest(bundle))
    if not folder.exists():
        return None
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OptionError(f"{folder}: cannot be removed ({error.strerror})") from None
    return folder


def _prepared_folder(manifest: Manifest) -> Path:
    """Return the folder for a bundle's prepared graphs. Its name is a hash of what the graphs depend on.

    Raises:
        OptionError: the user has no home folder, or the cache folder's name is not valid.
        ProviderError: onnxruntime is not installed.
    """
    ort = import_onnxruntime()
    facts = (FORMAT, manifest.bundle_id, ort.__version__, ort.get_build_info(), _describe_processor())
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:KEY_DIGITS]
    return _cache_folder() / "prepared" / key


def _cache_folder() -> Path:
    """Return the folder that the variable names, or the user's cache folder.

    Raises:
        OptionError: the user has no home folder, or the folder's name is not valid.
    """
    if named := os.environ.get(CACHE):
        try:
            named.encode()
        except UnicodeEncodeError:  # onnxruntime needs paths in UTF-8
            raise OptionError(f"{CACHE}: {named!a} is not UTF-8; choose another folder") from None
        return Path(named)
    try:
        folder = user_cache_path("paligemma-onnx")
    except (RuntimeError, KeyError, OSError):  # no HOME, and no entry of the user in the passwd database
        folder = Path()
    if not folder.is_absolute():
        raise OptionError(f"this user has no home folder; set {CACHE} to a folder for prepared graphs")
    return folder


def _read_small_file(path: Path) -> bytes:
    """Return the content of a regular file of at most MAX_CONTENT_BYTES.

    Raises:
        OSError: the file cannot be read.
        ValueError: the path is not a regular file, or the file is larger.
    """
    if not path.is_file() or path.stat().st_size > MAX_CONTENT_BYTES:
        raise ValueError(f"{path}: not a regular file of at most {MAX_CONTENT_BYTES} bytes")
    return path.read_bytes()


def _describe_processor() -> str:
    """Return the processor's name and instruction sets, which determine the order of prepared weights."""
    lines = [platform.machine(), platform.processor()]
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "\n".join(lines)
    first = cpuinfo.partition("\n\n")[0]
    lines += [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(lines)


@contextmanager
def _staging_folder(final: Path) -> Iterator[Path]:
    """Yield a new folder next to `final`. At the end, remove it unless the caller has renamed it."""
    stack = ExitStack()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The pattern matches the names that temporary_folder makes below.
        for path in final.parent.glob(f".{'[0-9a-f]' * KEY_DIGITS}.*"):
            with suppress(FileNotFoundError):  # another process has renamed or removed the folder
                if time.time() - path.stat().st_mtime > MAX_STAGING_AGE_S:
                    shutil.rmtree(path, ignore_errors=True)
        folder = stack.enter_context(temporary_folder(final.parent, f".{final.name}.", ".staging"))
    except OSError as error:
        raise OptionError(
            f"{final.parent}: cannot be written ({error.strerror}); set {CACHE} to another folder"
        ) from None
    with stack:
        yield folder

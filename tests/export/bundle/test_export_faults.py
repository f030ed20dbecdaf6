"""Exports that are killed, interrupted, run out of disk or memory, or run at the same time."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run_in_process
from damage import copy_folder, edit_tensors
from fork_server import Child, ForkServer
from paths import TESTS
from time_limits import HANG

from paligemma_onnx.runtime.errors import BundleError, ResourceError
from paligemma_onnx.runtime.resource_errors import resource_problem, translate_resource_errors

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"

# Functions that call `strike` when an export reaches a stage, writes bytes, or renames or removes a folder.
FAULTS = """
import os, resource, signal, sys
from pathlib import Path
from paligemma_onnx.export.cli.progress import TerminalProgress as Progress
from paligemma_onnx.runtime import atomic_file
def before_call(owner, name, condition, strike):
    original = getattr(owner, name)
    def wrapped(*arguments, **named):
        if condition(*arguments):
            strike()
        return original(*arguments, **named)
    setattr(owner, name, wrapped)
def send(number):
    return lambda: os.kill(os.getpid(), number)
def at_stage(text, strike):
    before_call(Progress, "stage", lambda _, stage: stage.startswith(text), strike)
def at_rename(end, strike):
    before_call(Path, "rename", lambda _, to: to.name.endswith(end), strike)
def at_removal(end, strike):
    before_call(atomic_file.shutil, "rmtree", lambda path, *_: str(path).endswith(end), strike)
"""
KILL_POINTS = {
    "reading": "at_stage('reading checkpoint', send(9))",
    "tracing": "at_stage('tracing prefill', send(9))",
    "half a weight file": "before_call(Progress, 'advance', lambda _, size: size > 9000, send(9))",
    "writing graphs": "at_stage('writing graphs', send(9))",
    "checking": "at_stage('weights: ', send(9))",
    "before the first rename": "at_rename('bundle.previous', send(9))",
    "between the renames": "at_rename('bundle', send(9))",
    "after the renames": "at_removal('bundle.previous', send(9))",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("exports")) as started:
        yield started


@pytest.fixture(scope="module")
def other(checkpoint: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one changed tensor, whose bundle differs from that of CASE."""
    folder = copy_folder(checkpoint(CASE), tmp_path_factory.mktemp("other") / "checkpoint")
    edit_tensors(
        folder, lambda tensors: tensors.update({name: tensors[name] * 2 for name in list(tensors)[:1]})
    )
    return folder


@pytest.fixture
def cached(trace_cache: Path, bundle: Folders) -> str:
    """Code that makes an export in another process take traced graphs from the cache."""
    bundle(CASE)  # fills the cache
    return FAULTS + (
        f"sys.path.insert(0, {str(TESTS / 'support')!r})\n"
        "from cached_traces import trace_with_cache\n"
        "from paligemma_onnx.export import exporter\n"
        f"exporter.trace = trace_with_cache(Path({str(trace_cache)!r}))\n"
    )


def state(folder: Path) -> str | None:
    """Return a hash of a folder's files, or None if the folder does not exist."""
    if not folder.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def siblings(output: Path) -> set[str]:
    return {entry.name for entry in output.parent.iterdir()} - {output.name}


def wait_for_line(child: Child, line: str) -> None:
    """Wait until a command has printed a line to stderr."""
    deadline = time.monotonic() + HANG
    while line not in child.err.read_text():
        assert time.monotonic() < deadline, child.err.read_text()
        time.sleep(0.01)


def test_killed_at_any_point(
    server: ForkServer, other: Path, bundle: Folders, cached: str, tmp_path: Path
) -> None:
    """The final name holds the previous bundle or nothing, and the next export succeeds."""
    output = copy_folder(bundle(CASE), tmp_path / "bundle")
    previous = state(output)
    for point, strike in KILL_POINTS.items():
        killed = server.run("export", other, "--output", output, "--force", before=cached + strike)
        assert killed.code == -signal.SIGKILL, point
        if point == "between the renames":
            assert not output.exists()
            assert state(tmp_path / ".bundle.previous") == previous
        elif point == "after the renames":
            assert state(output) not in (None, previous)
        else:
            assert state(output) == previous, point
    done = server.run("export", other, "--output", output, "--force", before=cached)
    assert done.code == 0
    assert state(output) not in (None, state(bundle(CASE)))
    assert siblings(output) == set()


def test_killed_while_tracing_for_a_new_name(
    server: ForkServer, checkpoint: Folders, cached: str, tmp_path: Path
) -> None:
    """A signal from another process, while torch traces."""
    output = tmp_path / "bundle"
    child = server.start("export", checkpoint(CASE), "--output", output)
    wait_for_line(child, "tracing vision_encoder")
    time.sleep(0.2)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().code == -signal.SIGKILL
    assert siblings(output) == {".bundle.staging", ".bundle.lock"}
    assert not output.exists()
    assert server.run("export", checkpoint(CASE), "--output", output, before=cached).code == 0
    assert siblings(output) == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    server: ForkServer, checkpoint: Folders, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "bundle"
    child = server.start("export", checkpoint(CASE), "--output", output)
    wait_for_line(child, "tracing vision_encoder")
    time.sleep(0.2)
    os.kill(child.pid, number)
    ended = child.wait()
    assert (ended.code, ended.out) == (code, "")
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(
    server: ForkServer,
    checkpoint: Folders,
    cached: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second export is refused; the first, which is suspended meanwhile, completes."""
    output = tmp_path / "bundle"
    first = server.start(
        "export",
        checkpoint(CASE),
        "--output",
        output,
        before=cached + "at_stage('tracing prefill', send(19))",
    )
    wait_for_line(first, "tracing vision_encoder")
    second = run_in_process(capsys, "export", checkpoint(CASE), "--output", output)
    assert second.code == 2
    assert "another process is writing this folder" in second.error
    while "\nState:\tT" not in Path(f"/proc/{first.pid}/status").read_text():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().code == 0
    assert siblings(output) == set()


@pytest.mark.parametrize("bytes_", [0, 1000, 120_000])
def test_disk_full(
    server: ForkServer, checkpoint: Folders, bundle: Folders, cached: str, tmp_path: Path, bytes_: int
) -> None:
    """A limit of file sizes applies at once, in the first or in the second file; the old bundle stays."""
    output = copy_folder(bundle(CASE), tmp_path / "bundle")
    before = state(output)
    limit = f"at_stage('tracing', lambda: resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_})))"
    ended = server.run("export", checkpoint(CASE), "--output", output, "--force", before=cached + limit)
    # stderr is also a file: with a limit of 0 bytes it stays empty
    assert ended.code == 5
    if bytes_:
        assert "the weights need 526,976 bytes" in ended.error
    assert state(output) == before
    assert siblings(output) == set()


@pytest.mark.parametrize("wanted", ["bytearray(1 << 33)", "__import__('torch').empty(1 << 31)"])
def test_memory_short(
    server: ForkServer, checkpoint: Folders, cached: str, tmp_path: Path, wanted: str
) -> None:
    """An allocation fails, with Python's MemoryError or with torch's RuntimeError."""
    limit = f"""
def limit():
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    {wanted}
at_stage("writing decoder.data", limit)
"""
    ended = server.run("export", checkpoint(CASE), "--output", tmp_path / "bundle", before=cached + limit)
    assert ended.code == 5
    assert "bundle: out of memory" in ended.error
    assert ("8,589.9 MB more are needed" in ended.error) == ("torch" in wanted)
    assert list(tmp_path.iterdir()) == []


MEMORY = "out of memory; close other programs, or process less at once"
TORCH = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), MEMORY),
        (
            MemoryError("Unable to allocate 3.20 GiB for an array with shape (9,)"),
            "(3.20 GiB more are needed)",
        ),
        (RuntimeError(TORCH), "(40,000.0 MB more are needed)"),
        (
            RuntimeError("Failed to allocate memory for requested buffer of size 4294967296"),
            "(4,295.0 MB more",
        ),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (RuntimeError("CUDA failure 2: out of memory"), MEMORY),
        (RuntimeError("can't start new thread"), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), "is full"),
        (OSError("1024 requested and 96 written"), "is full"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "is full"),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (ValueError("the allocator of x"), None),
        (BundleError("out of memory.onnx: no such file"), None),
    ],
)
def test_shortage_is_told_from_what_libraries_raise(error: Exception, message: str | None) -> None:
    assert (resource_problem(error) is None) == (message is None)
    assert (message or "") in (resource_problem(error) or "")


def test_shortage_behind_another_error_is_found() -> None:
    error = BundleError("the graph does not load")
    error.__cause__ = MemoryError()
    with pytest.raises(ResourceError, match=r"^bundle: out of memory"), translate_resource_errors("bundle"):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(BundleError, match=r"^altered$"), translate_resource_errors("bundle"):
        raise BundleError("altered")

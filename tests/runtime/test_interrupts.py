"""SIGINT and SIGTERM end a process without an exception, after it has removed its temporary files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from time_limits import HANG

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
PREPARE = """
import os, signal, sys, time
from pathlib import Path
from paligemma_onnx.runtime.atomic_file import publish_folder, temporary_folder, write_atomically
from paligemma_onnx.runtime.interrupts import REPETITION, cleaning_up, deferring_signals, handle_signals
def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
handle_signals()
"""


def run_code(code: str, *arguments: object) -> tuple[int, list[str]]:
    """Run code in a process with the handlers; return its exit code and the lines that it printed."""
    ended = subprocess.run(
        [sys.executable, "-u", "-c", PREPARE + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=HANG,
        check=False,
    )
    return ended.returncode, ended.stdout.decode().splitlines()


@pytest.mark.parametrize("number", CODES)
def test_cleanups(number: signal.Signals) -> None:
    """The innermost block is cleaned up first, an error does not stop the others, and nothing else runs."""
    code = f"""
with cleaning_up(lambda: print("outer")), cleaning_up(lambda: 1 / 0), cleaning_up(lambda: print("inner")):
    with cleaning_up(lambda: print("ended")):
        pass
    try:
        send({int(number)})
        print("not reached")
    except BaseException:
        print("not reached")
"""
    assert run_code(code) == (CODES[number], ["ended", "inner", "outer"])


def test_deferred_to_the_end_of_the_outer_block() -> None:
    code = """
with cleaning_up(lambda: print("cleanup")):
    with deferring_signals(lambda: print("signal")):
        with deferring_signals():
            send()
            send(signal.SIGINT)
        print("after the inner block")
    print("not reached")
"""
    assert run_code(code) == (143, ["signal", "after the inner block", "cleanup"])


def test_an_error_in_a_deferring_block() -> None:
    assert run_code("with deferring_signals():\n    send()\n    1 / 0") == (143, [])


def test_a_second_signal_ends_a_block_that_does_not_end() -> None:
    code = """
with cleaning_up(lambda: print("cleanup")), deferring_signals():
    send()
    send()
    print("repeated")
    time.sleep(2 * REPETITION)
    send(signal.SIGINT)
    print("not reached")
"""
    assert run_code(code) == (143, ["repeated", "cleanup"])


def test_a_second_signal_ends_a_cleanup_that_does_not_end() -> None:
    code = """
def stuck():
    time.sleep(2 * REPETITION)
    send()
    print("not reached")
with cleaning_up(lambda: print("outer")), cleaning_up(stuck):
    send()
"""
    assert run_code(code) == (143, ["outer"])


def test_deferring_in_another_thread() -> None:
    code = """
import threading
def wait():
    with deferring_signals():
        started.set()
        time.sleep(20)
started = threading.Event()
threading.Thread(target=wait).start()
started.wait()
send()
"""
    assert run_code(code) == (143, [])


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    code = """
with write_atomically(Path(sys.argv[1], "file")) as file, temporary_folder(Path(sys.argv[1])) as folder:
    file.write(b"new")
    (folder / "content").touch()
    print(len(list(folder.parent.iterdir())))
    send()
"""
    assert run_code(code, tmp_path) == (143, ["3"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_signal_between_the_renames_of_a_folder(tmp_path: Path) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    code = """
rename = Path.rename
def interrupted(path, target):
    if path.name == "staging":
        send()
    return rename(path, target)
Path.rename = interrupted
publish_folder(Path(sys.argv[1], "staging"), Path(sys.argv[1], "final"))
print("not reached")
"""
    assert run_code(code, tmp_path) == (143, [])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "final",
        "final/staging",
    ]

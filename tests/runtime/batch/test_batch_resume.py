"""Batch runs that are interrupted or that differ from the existing output, and their progress messages."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_runs import (
    CASE,
    PART_ROWS,
    SAMPLED,
    batch_command,
    rows_by_id,
    rows_in,
    set_part_rows,
    texts_by_id,
    wait_for,
)
from command_line import run_in_process, start_command
from damage import copy_folder, disable_stop_ids, edit_manifest
from time_limits import HANG

from paligemma_onnx.runtime.batch import progress
from paligemma_onnx.runtime.cli import batch as cli

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
MESSAGE = "finishing the current batch; press Ctrl-C or send the signal again to stop immediately"
# Delays each batch.
SLOW = (
    set_part_rows(PART_ROWS)
    + """
import time
from paligemma_onnx.runtime import PaliGemma
original = PaliGemma.generate_batch
def generate_batch(self, requests, **options):
    time.sleep({seconds})
    return original(self, requests, **options)
PaliGemma.generate_batch = generate_batch
"""
)


def test_a_run_that_is_killed_goes_on(
    command: tuple[str, ...], expected: dict[str, str], tmp_path: Path
) -> None:
    """Kill it at random moments until it completes: loading takes 0.5 s, the run 1.5 s.

    The time before a kill grows, so that the run also completes on a machine that is busy.
    """
    output, moments = tmp_path / "out", random.Random(0)
    arguments = (*command, "--output", str(output), "--batch-size", "3")
    kills = 0
    while True:
        process = start_command(*arguments, before=SLOW.format(seconds=0.1))
        time.sleep(moments.uniform(0.3, 1.0) * 1.2**kills)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    process.communicate()  # closes its pipes
    assert process.returncode == 0
    assert kills >= 2
    assert texts_by_id(output) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_batch_in_hand_be_finished(
    command: tuple[str, ...], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start_command(*command, "--output", str(tmp_path / "out"), before=SLOW.format(seconds=2))
    partial = tmp_path / "out" / ".part-00000-of-00001-000000.partial"
    wait_for(lambda: partial.exists() and partial.stat().st_size)
    time.sleep(0.2)  # the second batch is running
    process.send_signal(number)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == code
    lines = err.decode().splitlines()
    assert lines[0] == MESSAGE
    rows = partial.read_bytes().splitlines()
    assert lines[1].startswith(f"{len(rows)} rows written")
    assert len(rows) == 16  # the second batch was completed
    assert len(lines) == 2


def test_a_second_signal_ends_at_once(command: tuple[str, ...], tmp_path: Path) -> None:
    process = start_command(*command, "--output", str(tmp_path / "out"), before=SLOW.format(seconds=20))
    wait_for((tmp_path / "out" / "run.json").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGTERM


def test_one_process_writes_a_shard(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*command, "--output", str(tmp_path / "out"))
    process = start_command(*arguments, before=SLOW.format(seconds=20))
    try:
        wait_for((tmp_path / "out" / "run.json").exists)
        time.sleep(0.3)
        refused = run_in_process(capsys, *arguments)
        assert refused.code == 2
        assert "another process is writing shard 0 of 1" in refused.error
        forced = run_in_process(capsys, *arguments, "--prompt", "detect cat", "--force")
        assert forced.code == 2
        assert "another process is writing to it" in forced.error
    finally:
        process.kill()
        process.communicate()
    assert run_in_process(capsys, *arguments).code == 0  # a killed process holds no lock


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "detect cat"), "prompt 'caption en', not 'detect cat'"),
        (("--max-new-tokens", "6"), "--max-new-tokens 5, not 6"),
        (SAMPLED, "temperature 0.0, not 1.0; seed None, not 5"),
        (("--format", "parquet"), "format 'jsonl', not 'parquet'"),
        (("--num-shards", "2"), "num_shards 1, not 2"),
    ],
)
def test_another_run_is_refused_unless_forced(
    command: tuple[str, ...],
    options: tuple[str, ...],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert run_in_process(capsys, *command, "--output", output).code == 0
    (output / "mine.txt").touch()
    before = rows_in(output)
    result = run_in_process(capsys, *command, "--output", output, *options)
    assert result.code == 2
    assert f"{output}: was written with {words}" in result.error
    assert rows_in(output) == before
    forced = run_in_process(capsys, *command, "--output", output, *options, "--force", "--json")
    assert forced.code == 0, forced.err
    assert json.loads(forced.out)["written"] > 10
    assert (output / "mine.txt").exists()
    if options[0] == "--format":
        assert not list(output.glob("part-*.jsonl"))


def test_another_part_size_is_refused(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ("--output", tmp_path / "out")
    assert run_in_process(capsys, *command, *output).code == 0
    monkeypatch.setattr(cli, "PART_ROWS", PART_ROWS + 1)
    assert "was written with part_rows 16, not 17" in run_in_process(capsys, *command, *output).error
    assert run_in_process(capsys, *command, *output, "--force").code == 0


def test_another_bundle_or_input_is_refused(
    bundle: Folders, command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("absent.png\n")
    arguments = ("--output", str(tmp_path / "out"))
    assert run_in_process(capsys, *batch_command(bundle(CASE), listed), *arguments).code == 7
    other = copy_folder(bundle(CASE), tmp_path / "other")
    edit_manifest(other, disable_stop_ids)
    assert "bundle_id" in run_in_process(capsys, *batch_command(other, listed), *arguments).error
    listed.write_text("absent.png\nother.png\n")
    grown = run_in_process(capsys, *batch_command(bundle(CASE), listed), *arguments)
    assert "input_bytes 11, not 21" in grown.error
    assert "input " in run_in_process(capsys, *command, *arguments).error


def test_a_seed_that_was_drawn_is_kept(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*command, "--temperature", "1", "--output", str(tmp_path / "out"))
    for _ in range(2):
        assert run_in_process(capsys, *arguments).code == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] is not None
    assert "seed" in run_in_process(capsys, *arguments, "--seed", "5").error


def test_too_many_errors_end_the_run(
    bundle: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"absent-{number}.png\n" for number in range(300)))
    limited = batch_command(
        bundle(CASE), listed, "--output", str(tmp_path / "out"), "--max-error-rate", "0.5"
    )
    result = run_in_process(capsys, *limited)
    assert result.code == 7
    assert "stopped: 104 of 104 rows failed" in result.error
    resumed = run_in_process(capsys, *limited, "--max-error-rate", "1", "--json")
    assert resumed.code == 7
    assert json.loads(resumed.out)["written"] == 196
    assert len(rows_by_id(rows_in(tmp_path / "out"))) == 300


def test_lines_say_how_far_it_is(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    result = run_in_process(capsys, *command, "--output", tmp_path / "out")
    lines = result.err.splitlines()
    assert len(lines) == 6
    pattern = r"(\d+) of 40 rows, [\d.,]+ images/min, 0:00:\d\d left, 0 failed"
    assert [re.fullmatch(pattern, line)[1] for line in lines[:-1]] == ["8", "16", "24", "32", "40"]  # type: ignore[index]


def test_a_terminal_shows_a_bar(bundle: Folders, images: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{images / '0000.png'}\nabsent.png\nlost.png\n")
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = start_command(
        *batch_command(bundle(CASE), listed, "--output", str(tmp_path / "out")), stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(reader, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    process.communicate()
    os.close(reader)
    assert process.returncode == 7
    assert b"3/3" in shown
    assert b"errors=2" in shown
    assert b"\x1b[3" not in shown  # no colours

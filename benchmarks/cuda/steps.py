"""Run commands, the steps of a run, within a common time budget."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from paligemma_onnx.runtime.console import echo_stderr

from ..exports import failure_of
from ..measured_process import ROOT

POLL_S = 0.1  # seconds between two checks whether a process has ended
# Seconds between SIGINT and SIGKILL. After SIGINT, pytest reports the tests that have ended.
INTERRUPT_S = 15.0


@dataclass(frozen=True)
class Step:
    """A command of a run."""

    name: str
    command: tuple[str, ...]
    least_s: float  # if fewer seconds are left, the step is skipped; estimated for a server with 16 cores
    success: tuple[int, ...] = (0,)  # exit codes that mean success


@dataclass(frozen=True)
class Outcome:
    """Result of a step."""

    state: str  # done, failed or skipped
    seconds: float  # duration
    why: str | None  # reason why the step failed or was skipped


class Run:
    """The steps of a run and their outcomes."""

    def __init__(self, budget_s: float, logs: Path) -> None:
        """Start the time budget.

        Args:
            budget_s: seconds for all steps together.
            logs: folder for the output of the steps.
        """
        self.started, self.outcomes = time.perf_counter(), dict[str, Outcome]()
        self._budget_s, self._logs = budget_s, logs

    def do(self, *steps: Step, share: float = 1.0) -> None:
        """Run steps at the same time, and store their outcomes.

        A step that still runs when this share of the budget is spent is stopped and counts as failed.

        Args:
            steps: the steps to run.
            share: share of the time budget, counted from the start of the run.
        """
        end = self.started + share * self._budget_s
        running = dict[Step, tuple[subprocess.Popen[bytes], float]]()
        try:
            for step in steps:
                now = time.perf_counter()
                left = max(0.0, end - now)
                if left < step.least_s:
                    why = f"the step needs about {step.least_s:.0f} s, but only {left:.0f} s are left"
                    self._finish(step, "skipped", 0.0, why)
                    continue
                echo_stderr(f"{step.name}: started, {left:.0f} s are left")
                with self._log(step).open("wb") as log:
                    process = subprocess.Popen(
                        step.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                    )
                running[step] = process, now
            while running:
                for step, (process, started) in list(running.items()):
                    now = time.perf_counter()
                    if (code := process.poll()) is None and now < end:
                        continue
                    stop(process)
                    del running[step]
                    if code in step.success:
                        self._finish(step, "done", now - started, None)
                    else:
                        why = (
                            "the time budget is spent" if code is None else failure_of(self._log(step), code)
                        )
                        self._finish(step, "failed", now - started, why)
                time.sleep(POLL_S)
        finally:
            for process, _ in running.values():
                stop(process)

    def _finish(self, step: Step, state: str, seconds: float, why: str | None) -> None:
        self.outcomes[step.name] = Outcome(state, round(seconds, 1), why)
        echo_stderr(f"{step.name}: {state}, {why or f'{seconds:.0f} s'}")

    def _log(self, step: Step) -> Path:
        return self._logs / f"{step.name.replace(' ', '-')}.log"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a running process; if it does not end, kill it and all processes of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(INTERRUPT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

"""Files of a training run: its state, from which a killed run resumes, and its log."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

Optimizers = tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage. Saved states hold the fields by name."""

    steps: int = 0  # steps done
    loss: float | None = None  # smoothed; None before the first step
    seconds: float = 0.0  # time spent in training


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file next to `path` and rename it, so that a kill leaves the old file, the new one or none.

    Args:
        path: the final name.
        write: a function that writes the file or folder at the path it is called with.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    write(partial)
    partial.rename(path)


def save_state(path: Path, progress: StageProgress, model: nn.Module, optimizers: Optimizers) -> None:
    """Save progress, weights and optimizer states in one file."""
    state = {
        "done": asdict(progress),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    write_atomically(path, lambda partial: torch.save(state, partial))


def restore_state(path: Path, model: nn.Module, optimizers: Optimizers) -> StageProgress:
    """Load a saved state into `model` and `optimizers`; without a file, leave them unchanged.

    Returns:
        The saved progress, or a new one without a file.
    """
    if not path.exists():
        return StageProgress()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    return StageProgress(**state["done"])


def append_row(log: Path, row: Mapping[str, float]) -> None:
    """Append a row to a CSV file, with a header if the file is new."""
    is_new = not log.exists()
    with log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(
            {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
        )


def drop_rows_after(log: Path, step: int) -> None:
    """Remove the rows of steps after `step`, which a resumed run repeats."""
    if log.exists():
        header, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [row for row in rows if int(row.split(",")[0]) <= step]
        log.write_text("".join([header, *rows]), encoding="utf-8")

"""What a run leaves on disk while it goes: its state, to go on from after a kill, and its log."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

Optimizers = tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True)
class Done:
    """How far a run is."""

    steps: int = 0
    loss: float | None = None  # smoothed
    seconds: float = 0.0


def save(path: Path, done: Done, model: nn.Module, optimizers: Optimizers) -> None:
    """Write beside and rename, so that a kill leaves the old state or the new one."""
    partly = path.with_suffix(".partly")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"done": asdict(done), "model": model.state_dict(), "optimizers": states}, partly)
    partly.rename(path)


def restore(path: Path, model: nn.Module, optimizers: Optimizers) -> Done:
    """Put a saved state back where there is one."""
    if not path.exists():
        return Done()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, one in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(one)
    return Done(**state["done"])


def append_row(log: Path, row: Mapping[str, float]) -> None:
    """Add a row to a CSV file, with a header if it is the first."""
    new = not log.exists()
    with log.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(
            {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
        )


def forget_after(log: Path, step: int) -> None:
    """Drop rows of steps that will be done again."""
    if log.exists():
        head, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        log.write_text("".join([head, *kept]), encoding="utf-8")

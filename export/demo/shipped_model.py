"""The small model that ships with the project; training/ generates its scenes and trains it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

FOLDER = "paligemma-scenes"


def shipped_model() -> AbstractContextManager[Path]:
    """Return a context manager that yields the folder of the checkpoint."""
    return as_file(files(__package__) / FOLDER)

"""The small model that ships with the project: trained by training/ on the scenes that training/ draws."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

FOLDER = "paligemma-scenes"


def shipped_model() -> AbstractContextManager[Path]:
    """The checkpoint's folder, for as long as the context lasts."""
    return as_file(files(__package__) / FOLDER)

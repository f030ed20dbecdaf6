"""The chapters of the course: they run, are stored with their outputs, and stay small."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from paths import ROOT
from time_limits import HANG

FOLDER = ROOT / "docs" / "learn"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 300_000  # of a chapter with its figures
MAX_SECONDS = 60.0  # of a chapter on two cores


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_stored_with_its_outputs(path: Path) -> None:
    """All cells were run once from top to bottom, without errors."""
    assert path.stat().st_size <= MAX_BYTES
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.get("name", output.output_type) for cell in cells for output in cell.outputs}
    assert "display_data" in kinds  # at least one figure
    assert not kinds & {"error", "stderr"}
    assert sum("hide-cell" in cell.metadata.get("tags", []) for cell in cells) >= 2  # solutions of exercises
    assert sum("assert " in cell.source for cell in cells) >= 2


@pytest.mark.full
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs(path: Path, record_property: Callable[[str, object], None]) -> None:
    """Its assertions hold with the code of this checkout."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(notebook, timeout=HANG, resources={"metadata": {"path": str(FOLDER)}}).execute()
    seconds = time.perf_counter() - started
    record_property("seconds", round(seconds, 1))
    print(f"{path.name}: {seconds:.1f} s, at most {MAX_SECONDS:.0f} s on two idle cores")

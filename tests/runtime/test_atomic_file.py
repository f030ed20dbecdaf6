"""`write_atomically` and `publish_folder`: the final name has the old content or the new, never a part."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from paligemma_onnx.runtime.atomic_file import publish_folder, write_atomically


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / ".bundle.staging"
    folder.mkdir()
    (folder / "new").write_text("new")
    return folder


@pytest.fixture
def final(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def test_locked_files_overwrite_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".run.json.writing").write_text("half of a much longer file")
    with write_atomically(tmp_path / "run.json", locked=True) as file:
        file.write(b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("run.json", "new")]


def test_a_file_that_is_not_regular_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(OSError, match="not a regular file"), write_atomically(tmp_path / name):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_a_published_folder_replaces_the_previous_one(staging: Path, final: Path) -> None:
    publish_folder(staging, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert [path.name for path in final.parent.iterdir()] == ["bundle"]


def test_the_previous_folder_returns_when_the_second_rename_fails(
    staging: Path, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path == staging:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_folder(staging, final)
    assert [path.name for path in final.iterdir()] == ["old"]


def test_a_folder_published_by_another_process_in_between_is_replaced(
    staging: Path, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, others = Path.rename, ["first", "second"]

    def raced(path: Path, target: Path) -> Path:
        if path == staging and others:
            shutil.rmtree(final, ignore_errors=True)
            final.mkdir()
            (final / others.pop()).touch()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", raced)
    publish_folder(staging, final)
    assert not others
    assert [path.name for path in final.iterdir()] == ["new"]
    assert [path.name for path in final.parent.iterdir()] == ["bundle"]

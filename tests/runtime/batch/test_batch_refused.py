"""Inputs that cannot be read or are empty: exit code 2, and a line that names the input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_runs import PROMPT, Run, batch_command
from command_line import run_in_process

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch.sources import Source, count_items, read_items, source_kind


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_an_empty_path_is_a_usage_error(
    shipped_bundle: Path, listed: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*batch_command(shipped_bundle, listed), "--output", str(tmp_path / "out"), option, "")
    result = run_in_process(capsys, *arguments)
    assert (result.code, f"Invalid value for '{option}': the path is empty" in result.error) == (2, True)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 2500, "x" * 300 + ".txt"])
def test_a_path_that_is_too_long_is_an_error_of_the_input(run: Run, path: str) -> None:
    result = run(path)
    assert result.code == 2
    assert result.error.endswith("cannot be read (File name too long); check --input")
    assert len(result.error) < 400


def test_a_folder_that_is_too_deep_is_an_error_of_the_input(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=descriptor)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    result = run(folder)
    assert result.code == 2
    assert f"error: {folder}/xxx" in result.error
    assert result.error.endswith("(File name too long); check --input")


@pytest.fixture
def user() -> Iterator[None]:
    """Drop the rights of root, who may read every file."""
    if (root := os.geteuid()) == 0:
        os.seteuid(65534)
    yield
    os.seteuid(root)


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "t.csv", "t.parquet", "t.tar"])
def test_an_input_without_permission_is_an_error_of_the_input(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / name
    path.touch(mode=0)
    source = Source(path, source_kind(path), PROMPT, tmp_path / "listing")
    request.getfixturevalue("user")
    with pytest.raises(OptionError) as caught:
        count_items(source)
    assert str(caught.value) == f"{path}: cannot be read (Permission denied); check --input"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "image files in a folder end in"),
        ("empty.txt", "write the path of one image per line"),
        ("empty.jsonl", "write one JSON object per line"),
        ("empty.csv", "write a header and one row per image"),
        ("empty.parquet", "write one row per image"),
        ("empty.tar", "pack one image per sample"),
    ],
)
def test_an_empty_input_is_named_by_its_kind(run: Run, tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"image": pa.array([], pa.string())}), path)
    else:
        path.write_bytes({".csv": b"image\n", ".tar": bytes(10240)}.get(path.suffix, b"\n"))
    result = run(path)
    assert (result.code, f"{path}: contains no input; {words}" in result.error) == (2, True)


def test_a_damaged_parquet_file_is_refused_or_read(tmp_path: Path) -> None:
    path, random = tmp_path / "t.parquet", np.random.default_rng(0)
    images = [{"bytes": b"x", "path": "a.png"}] * 20
    pyarrow.parquet.write_table(pa.table({"image": images, "id": list(range(20))}), path)
    content, messages = path.read_bytes(), list[str]()
    for _ in range(100):
        damaged = bytearray(content)
        for place in random.integers(len(content), size=3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            list(read_items(Source(path, "parquet", PROMPT, path)))
        except OptionError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(text.startswith(f"{path}: ") for text in messages)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_without_images_leaves_no_output(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table.{kind}"
    if kind == "csv":
        path.write_text("Image,other\na.png,x\n")
    else:
        pyarrow.parquet.write_table(pa.table({"Image": ["a.png"], "other": ["x"]}), path)
    result = run(path)
    assert result.code == 2
    assert "has no column `image` or `file_name`; its columns are: Image, other;" in result.error
    assert not (tmp_path / "out").exists()


def test_what_is_not_listed_is_mentioned_once(run: Run, tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    for name in ("a.heic", "b.HEIC", "README", "._a.png", ".DS_Store"):
        (folder / name).touch()
    (folder / "link").symlink_to(images)
    note = f"note: {folder}: not listed: 2 .heic files, 1 "
    assert note in run(folder).err
    assert "note:" not in run(folder).err

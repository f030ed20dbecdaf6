"""Columns of tables: names in the data sets of others, ids of every type, damaged cells and encodings."""

from __future__ import annotations

import csv
import datetime
import json
import os
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_runs import PROMPT, all_items, message

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch.columns import Columns
from paligemma_onnx.runtime.batch.items import Item
from paligemma_onnx.runtime.batch.sources import Source, source_kind
from paligemma_onnx.runtime.batch.survey import survey

KINDS = ["jsonl", "csv", "tsv", "parquet"]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows with the same keys in the format that the suffix names."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def facts(items: list[Item]) -> list[tuple[str, str | None, str | None]]:
    return [(item.id, item.prompt, item.suffix) for item in items]


def notes(path: Path, prompt: str | None, columns: Columns | None = None) -> list[str]:
    return survey(Source(path, source_kind(path), prompt, path, columns or Columns()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", ["image", "file_name"])
def test_names_of_fine_tuning_data(tmp_path: Path, kind: str, image: str) -> None:
    rows = [
        {image: "a.png", "prefix": "detect cat", "suffix": '<loc0001>, "cat"\nü', "width": 7},
        {image: "b.png", "prefix": None, "suffix": None, "width": 8},
    ]
    path = write_table(tmp_path / f"metadata.{kind}", rows)
    items = all_items(path)
    assert facts(items) == [("a.png", "detect cat", rows[0]["suffix"]), ("b.png", PROMPT, None)]
    assert [item.image for item in items] == [tmp_path / "a.png", tmp_path / "b.png"]
    assert notes(path, None) == [f"{path}: columns that are not used: width"]
    precedence, unused = notes(path, PROMPT)
    assert precedence.startswith(f"{path}: a prompt in column `prefix` takes precedence; --prompt applies")
    assert unused == f"{path}: columns that are not used: width"


@pytest.mark.parametrize("kind", KINDS)
def test_options_name_columns(tmp_path: Path, kind: str) -> None:
    row = {"img": "a.png", "question": "why?", "answer": "because", "key": "k", "prompt": "x", "image": "y"}
    path = write_table(tmp_path / f"table.{kind}", [row])
    columns = Columns(("img",), ("question",), ("key",), ("answer",))
    (item,) = all_items(path, PROMPT, columns)
    assert (item.id, item.prompt, item.suffix, item.image) == ("k", "why?", "because", tmp_path / "a.png")
    assert notes(path, None, columns) == [f"{path}: columns that are not used: image, prompt"]
    with pytest.raises(OptionError, match=r"--id-column ID: .* has no such column; its columns are: answer"):
        notes(path, None, Columns(id=("ID",)))


def test_an_option_needs_a_table(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(OptionError, match="--image-column img: a list of images has no such column"):
        notes(tmp_path / "list.txt", PROMPT, Columns(image=("img",)))


def test_the_first_name_with_a_value_counts(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "file_name": "x.png", "prompt": None, "prefix": "two"},
        {"image": None, "file_name": "b.png", "prompt": "one", "prefix": "two"},
    ]
    path = write_table(tmp_path / "t.jsonl", rows)
    assert facts(all_items(path)) == [("a.png", "two", None), ("b.png", "one", None)]
    assert notes(path, None) == [
        f"{path}: `image` takes precedence over `file_name` where a row has both",
        f"{path}: `prompt` takes precedence over `prefix` where a row has both",
    ]


def test_metadata_of_an_image_folder_is_mentioned(tmp_path: Path) -> None:
    table = write_table(tmp_path / "metadata.csv", [{"file_name": "a.png", "prefix": "x"}])
    assert notes(tmp_path, PROMPT) == [f"{table} is not read; to take prompts from it, use `--input {table}`"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (7, "7"),
        (2**62, "4611686018427387904"),
        (1.5, "1.5"),
        (3.0, "3.0"),
        (True, "true"),
        (Decimal("1.10"), "1.10"),
        (b"caf\xc3\xa9", "café"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05"),
        (uuid.UUID("f" * 32).bytes, None),
        (b"\xff", None),
        (float("nan"), None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_ids_are_kept_or_refused(tmp_path: Path, value: Any, name: str | None) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table({"image": ["a.png"], "id": pa.array([value])}), path)
    check_id(path, name)
    if isinstance(value, int | float | list | dict | Decimal):
        path = tmp_path / "t.jsonl"
        spelled = str(value) if isinstance(value, Decimal) else json.dumps(value)
        path.write_text(f'{{"image": "a.png", "id": {spelled}}}')
        check_id(path, name)


def check_id(path: Path, name: str | None) -> None:
    (item,) = all_items(path)
    if name is None:
        assert message(item).startswith("row 1: `id` ")
    else:
        assert (item.id, item.image) == (name, path.parent / "a.png")


def test_a_key_or_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a.png", "image": "b.png"}\n{"image": "c.png"}\n')
    bad, good = all_items(path)
    assert message(bad) == "line 1 is not JSON (the key 'image' occurs twice); write one object per line"
    assert good.id == "c.png"
    (tmp_path / "t.csv").write_text("image,prompt,image\na.png,x,b.png\n")
    columns = [pa.array(["a.png"]), pa.array(["b.png"])]
    pyarrow.parquet.write_table(pa.Table.from_arrays(columns, ["image", "image"]), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(OptionError, match=f"{name}: has several columns image; rename or remove one"):
            all_items(tmp_path / name)


def test_a_csv_row_with_too_few_cells_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('image,prompt\na.png,"one, two"\n\nb.png\nc.png,x,y\nd.png,\n')
    first, second, third, last = all_items(path, "all")
    assert (first.prompt, last.prompt) == ("one, two", "all")
    assert message(second) == "row 2 has 1 cells, and the header has 2"
    assert message(third) == "row 3 has 3 cells, and the header has 2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('image,prompt\na.png,"never closed\nb.png,x\n', r"t.csv: is damaged in or before line 3"),
        (
            "name;prompt\na.png;x\n",
            r"no column `image` or `file_name`; its columns are: name;prompt; name",
        ),
        ("", r"t.csv: has no column `image`"),
        (f"image\n{'x' * 200_000}\n", r"t.csv: is damaged in or before line 2 \(field larger than"),
    ],
)
def test_a_csv_that_hides_rows_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(OptionError, match=words):
        all_items(tmp_path / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    for name, lines in (
        ("t.txt", ["é.png", "b.png"]),
        ("t.jsonl", ['{"image": "é.png"}', '{"image": "b.png"}']),
        ("t.csv", ["image,prompt", "é.png,", "b.png,"]),
    ):
        (tmp_path / name).write_bytes("".join(f"{line}{end}" for line in lines).encode(encoding))
        assert [item.id for item in all_items(tmp_path / name)] == ["é.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a.png\r\n".encode("utf-16-le"), "has many NUL bytes, like UTF-16 without a byte order mark"),
        ("a.png\r\n".encode("utf-16-be"), "save it as UTF-8"),
        ("a.png\r\n".encode("utf-16")[:-1], "is not valid UTF-16; save it as UTF-8"),
        (b"\xff\xfe\x00\xd8\x00\xd8", "is not valid UTF-16"),
    ],
)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_text_in_no_encoding_is_refused_once(tmp_path: Path, content: bytes, words: str, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=f"t.{kind}: {words}|t.{kind}: .*{words}"):
        all_items(path)


def binary_as_text(values: list[bytes]) -> pa.Array:
    """Return an array of strings that are not checked to be UTF-8, as other writers of Parquet write it."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers())


def test_a_parquet_cell_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    texts = [b"one", b"\xff", b"three", b"four"]
    prompts = binary_as_text(texts)
    images = pa.StructArray.from_arrays(
        [pa.array([b"A", b"B", b"C", None]), binary_as_text([b"a", b"b", b"\xfe", b"d"])], ["bytes", "path"]
    )
    ids = binary_as_text([b"1", b"2", b"3", b"\xff"])
    table = pa.table({"image": images, "prompt": prompts, "id": ids, "other": prompts})
    pyarrow.parquet.write_table(table, path)
    first, *others = all_items(path)
    assert (first.id, first.prompt, first.image) == ("1", "one", b"A")
    assert [message(item) for item in others] == [
        "row 2: `prompt` has bytes that are not UTF-8",
        "row 3: `image` has bytes that are not UTF-8",
        "row 4: `id` has bytes that are not UTF-8",
    ]


def test_bytes_of_other_writers_are_text(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"image": ["a.png"], "prompt": [b"caf\xc3\xa9"], "suffix": [b"\xff"]})
    pyarrow.parquet.write_table(table, path)
    (item,) = all_items(path)
    assert (item.prompt, message(item)) == ("café", "row 1: `suffix` has bytes that are not UTF-8")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("column", ["prompt", "suffix"])
def test_a_table_in_latin_1_is_refused_once(tmp_path: Path, kind: str, column: str) -> None:
    path = tmp_path / f"t.{kind}"
    texts = ["plain", "o\u00f9 est l'\u00e9toile"]
    rows = [{"image": "a.png", column: text} for text in texts]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = "\n".join(
        lines if kind == "jsonl" else [f"image,{column}", *(f"a.png,{text}" for text in texts)]
    )
    source = Source(path, kind, "all", tmp_path / "listing")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(OptionError) as caught:
        survey(source)
    assert str(caught.value) == (
        f"{path}: row 2: `{column}` has bytes that are not UTF-8; save the file as UTF-8"
    )
    path.write_text(content, encoding="utf-8")
    survey(source)


def test_a_file_name_in_a_table_may_have_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"image\ncaf\xe9.png\n")
    survey(Source(path, "csv", "all", tmp_path / "listing"))
    (item,) = all_items(path, "all")
    assert item.image == tmp_path / os.fsdecode(b"caf\xe9.png")

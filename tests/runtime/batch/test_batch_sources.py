"""Sources of a batch: folders, lists, tables and tars, each read in a fixed order."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_runs import all_items, message

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch.folder import write_listing
from paligemma_onnx.runtime.batch.items import Item, Shard
from paligemma_onnx.runtime.batch.sources import Source, count_items, read_items


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    names = ["a.jpg", "b/c.PNG", "b/d/e f.webp", "line\nfeed.gif", "é.tiff"]
    for name in [*names, "b/notes.txt", "README", ".jpg"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "loop").symlink_to(folder)
    odd = os.fsdecode(b"odd\xff.bmp")
    (folder / odd).touch()
    items = all_items(folder)
    assert sorted(item.id for item in items) == sorted([*names, "odd\\udcff.bmp"])
    assert {item.image for item in items} == {folder / name for name in [*names, odd]}
    assert all(item.path == item.id and item.prompt == "caption en" for item in items)


def test_a_listing_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").touch()
    source = Source(folder, "folder", None, tmp_path / "listing")
    write_listing(folder, source.listing)
    (folder / "0.jpg").touch()
    assert [item.id for item in read_items(source)] == ["a.jpg"]


def test_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.jpg\r\n\n/b/c d.png\nodd\xff.jpg\na.jpg")
    items = all_items(path)
    assert [item.id for item in items] == ["a.jpg", "/b/c d.png", "odd\\udcff.jpg", "a.jpg"]
    assert [item.image for item in items] == [
        tmp_path / "a.jpg",
        Path("/b/c d.png"),
        tmp_path / os.fsdecode(b"odd\xff.jpg"),
        tmp_path / "a.jpg",
    ]


def test_a_list_whose_lines_end_with_cr(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.jpg\rb.jpg\r\rc d.png\r")
    assert [item.id for item in all_items(path)] == ["a.jpg", "b.jpg", "c d.png"]


def test_a_table_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    lines = [
        '{"image": "a.jpg"}',
        '{"image": "/b.jpg", "prompt": "detect cat", "id": "two"}',
        '{"image": "c.jpg", "id": 3, "more": [1]}',
        "",
        '{"image": "d.jpg"',
        "[1]",
        '{"id": "no image"}',
        '{"image": "e.jpg", "prompt": 7}',
        '{"image": "f.jpg", "prompt": null, "id": null}',
        "[" * 100_000,
    ]
    path.write_text("\n".join(lines))
    items = all_items(path)
    assert [item.id for item in items] == [
        *("a.jpg", "two", "3", "row-5", "row-6", "no image", "e.jpg", "f.jpg", "row-10")
    ]
    assert [item.prompt for item in items[:3]] == ["caption en", "detect cat", "caption en"]
    assert [item.image for item in items[:3]] == [tmp_path / "a.jpg", Path("/b.jpg"), tmp_path / "c.jpg"]
    assert message(items[3]).startswith("line 5 is not JSON")
    assert message(items[4]).startswith("line 6 is not a JSON object")
    assert message(items[5]).startswith("row 7: `image` is missing")
    assert message(items[6]) == "row 8: `prompt` is int, not text"
    assert (items[7].prompt, items[7].image) == ("caption en", tmp_path / "f.jpg")
    assert message(items[8]).startswith("line 10 is not JSON")


@pytest.mark.parametrize("group", [1, 1000])
def test_parquet(tmp_path: Path, group: int) -> None:
    path = tmp_path / "table.parquet"
    rows = [
        {"image": {"bytes": b"\x89PNG", "path": "a.png"}, "id": "one", "prompt": "detect cat"},
        {"image": {"bytes": None, "path": "b.png"}, "id": None, "prompt": None},
        {"image": {"bytes": b"GIF", "path": None}, "id": None, "prompt": ""},
        {"image": None, "id": None, "prompt": None},
    ] * 10
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    items = all_items(path)
    assert [item.image for item in items[:3]] == [b"\x89PNG", tmp_path / "b.png", b"GIF"]
    assert [item.id for item in items[:4]] == ["one", "b.png", "row-3", "row-4"]
    assert [item.id for item in items[38:]] == ["row-39", "row-40"]
    assert [item.path for item in items[:4]] == ["a.png", "b.png", None, None]
    assert [item.prompt for item in items[:3]] == ["detect cat", "caption en", ""]
    assert message(items[3]).startswith("row 4: `image` is missing")


@pytest.mark.parametrize("image", ["a.png", b"\x89PNG"])
def test_parquet_with_plain_columns(tmp_path: Path, image: str | bytes) -> None:
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pa.table({"image": [image], "other": [1]}), path)
    (item,) = all_items(path)
    assert item.image == (tmp_path / "a.png" if isinstance(image, str) else image)


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "table.parquet").write_bytes(b"no parquet")
    pyarrow.parquet.write_table(pa.table({"picture": ["a.png"]}), tmp_path / "other.parquet")
    for name, words in (
        ("absent", "does not exist"),
        ("photo.jpg", r"is neither a folder nor a \.txt"),
        ("table.parquet", "is damaged"),
        ("other.parquet", "has no column `image`"),
    ):
        with pytest.raises(OptionError, match=words):
            all_items(tmp_path / name)


def test_counting_parses_no_line_and_one_shard_hashes_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    (tmp_path / "t.jsonl").write_text('{"image": "a.png"}\n\n \t\r\n{"image": "b.png"}')
    monkeypatch.setattr("json.loads", refuse)
    monkeypatch.setattr("paligemma_onnx.runtime.batch.items.stable_hash", refuse)
    assert count_items(Source(tmp_path / "t.jsonl", "jsonl", None, tmp_path)) == 2
    item = Item("a", None, None, b"")
    assert list(Shard(0, 1).items([item])) == [item]


def test_shards_share_out_the_items_by_a_hash_that_stays() -> None:
    def numbered_item(number: int) -> Item:
        return Item(f"image {number}", None, None, b"")

    all_numbered = [numbered_item(number) for number in range(200)]
    shards = [list(Shard(index, 3).items(all_numbered)) for index in range(3)]
    assert sorted((item for shard in shards for item in shard), key=all_numbered.index) == all_numbered
    assert all(40 < len(shard) < 100 for shard in shards)
    assert list(Shard(0, 1).items(all_numbered)) == all_numbered
    digest: Any = hashlib.sha256(b"image 7").hexdigest()
    assert all_numbered[7] in shards[int(digest[:16], 16) % 3]

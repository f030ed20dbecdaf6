"""Tars in WebDataset format: every image has a row, and what hides members is refused."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest
from batch_runs import all_items, message

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch.items import Item, Slice

IMAGE = re.compile(r".*\.(png|jpg|webp)", re.IGNORECASE)


def archive(path: Path, members: dict[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_tar(tmp_path: Path) -> None:
    members = {
        "a.json": json.dumps({"prompt": "detect cat"}).encode(),
        "a.seg.jpg": b"image of a",
        "a.txt": b"a cat on a mat",
        "sub/a.png": b"image of sub/a",
        "sub/a.txt": b"answer en why?\n",
        "b.txt": b"no image",
        "c.jpg": b"",
        "c.json": b"{",
        "x" * 200 + ".png": b"long name",
    }
    path = archive(tmp_path / "set.tar", members)
    items = all_items(path)
    assert [item.id for item in items] == ["a", "sub/a", "b", "c", "x" * 200]
    assert [item.path for item in items] == ["a.seg.jpg", "sub/a.png", None, "c.jpg", "x" * 200 + ".png"]
    images = [item.image for item in items]
    assert isinstance(images[0], Slice)
    assert isinstance(images[1], Slice)
    assert (images[0].read(), images[1].read()) == (b"image of a", b"image of sub/a")
    assert [item.prompt for item in items[:2]] == ["detect cat", "caption en"]
    assert [item.prompt for item in all_items(path, None)[:2]] == ["detect cat", "answer en why?"]
    assert message(items[2]) == "b: no member has an image suffix"
    assert message(items[3]) == "c: c.json is not JSON"


@pytest.mark.parametrize("cut", [0, 100, 600, 1536, 2000])
def test_a_damaged_tar_is_refused(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path / "set.tar", {"a.png": bytes(600), "b.png": bytes(600)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(OptionError, match=r"set.tar: is compressed, or damaged after"):
        all_items(path)


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.tar", {"a.png": bytes(600), "b.png": bytes(600)})
    content = bytearray(path.read_bytes())
    content[1536 + 10] ^= 1  # in the header of b.png
    path.write_bytes(content)
    with pytest.raises(OptionError, match=r"damaged after a.png"):
        all_items(path)


def webdataset_key(name: str) -> str | None:
    """The key as the webdataset library computes it (`base_plus_ext`)."""
    match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
    return match[1] if match else None


def contents(items: Iterable[Item]) -> list[bytes]:
    return [item.image.read() for item in items if isinstance(item.image, Slice)]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["cam.2026-01-01.png", "cam.2026-01-02.png"], ["cam.2026-01-01.png", "cam.2026-01-02.png"]),
        (["a.png", "a.png"], ["a", "a"]),
        (["a.png", "a.txt", "a.png", "a.txt"], ["a", "a"]),
        (["a.left.png", "a.right.png", "b.png"], ["a.left.png", "a.right.png", "b"]),
        (["a.png", "a.PNG", "a.jpg"], ["a.png", "a.PNG", "a.jpg"]),
        (["x/v1.0.png", "x/v1.1.png", "x/v2.0.png"], ["x/v1.0.png", "x/v1.1.png", "x/v2"]),
        (["a.seg.jpg", "a.txt", "b.cls", "b.webp"], ["a", "b"]),
        (["a.png", "b.png", "a.txt", "b.txt"], ["a", "b", "a", "b"]),
    ],
)
def test_every_image_has_a_row(tmp_path: Path, names: list[str], ids: list[str]) -> None:
    members = [(name, f"{name} {number}".encode()) for number, name in enumerate(names)]
    items = all_items(archive(tmp_path / "set.tar", members))
    assert [item.id for item in items] == ids
    assert contents(items) == [content for name, content in members if IMAGE.fullmatch(name)]
    with tarfile.open(tmp_path / "set.tar") as tar:  # counted without this project's code
        samples = groupby(tar.getnames(), webdataset_key)
        images = [sum(bool(IMAGE.fullmatch(name)) for name in sample) for _, sample in samples]
    assert len(items) == sum(max(1, count) for count in images)


def test_texts_belong_to_the_image_with_their_name(tmp_path: Path) -> None:
    members = {
        "cam.1.json": b'{"prompt": "one"}',
        "cam.1.png": b"",
        "cam.2.png": b"",
        "cam.2.txt": b"two",
        "cam.3.json": b'{"prefix": "three", "suffix": "cat", "other": 1}',
        "cam.3.png": b"",
        "cam.txt": b"all",
    }
    items = all_items(archive(tmp_path / "set.tar", members), None)
    assert [item.prompt for item in items] == ["one", "two", "three"]
    assert [item.suffix for item in items] == [None, None, "cat"]
    del members["cam.2.txt"]
    assert [item.prompt for item in all_items(archive(tmp_path / "set.tar", members), None)] == [
        *("one", "all", "three")
    ]


def test_files_of_macos_are_no_inputs(tmp_path: Path) -> None:
    names = [
        "._a.png",
        "a.png",
        "__MACOSX/._a.png",
        "__MACOSX/b/._c.jpg",
        ".DS_Store",
        "b/._c.jpg",
        "b/c.jpg",
    ]
    items = all_items(archive(tmp_path / "set.tar", dict.fromkeys(names, b"")))
    assert [item.path for item in items] == ["a.png", "b/c.jpg"]
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(item.id for item in all_items(tmp_path / "folder")) == ["a.png", "b/c.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_not_part_of_a_prompt(tmp_path: Path, encoding: str) -> None:
    members = {
        "a.png": b"",
        "a.txt": "Straße".encode(encoding),
        "b.png": b"",
        "b.json": '{"prompt": "Straße"}'.encode(encoding),
    }
    items = all_items(archive(tmp_path / "set.tar", members), None)
    assert [item.prompt for item in items] == ["Straße", "Straße"]


def test_a_text_that_cannot_be_used_costs_its_row(tmp_path: Path) -> None:
    members = {
        "a.png": b"",
        "a.json": b'{"prompt": "one", "prompt": "two"}',
        "b.png": b"",
        "b.json": b'{"prompt": 7}',
        "c.png": b"",
        "c.txt": b"\xff\xfe\x00",
        "d.png": b"",
        "d.json": b" " * (16 << 20) + b"{}",
    }
    items = all_items(archive(tmp_path / "set.tar", members), None)
    assert [message(item) for item in items] == [
        "a: a.json is not JSON",
        "b: b.json cannot be used: `prompt` is int, not text",
        "c: c.txt is not valid UTF-16",
        "d: d.json has 16777218 bytes, more than 16777216",
    ]


def test_links_are_rows_with_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in ("a.png", "b.png", "c.png"):
            tar.add(tmp_path / name, name)
    first, *links = all_items(tmp_path / "set.tar")
    assert contents([first]) == [b"image"]
    assert [message(item) for item in links] == [
        f"{name} is a link; pack the tar with --dereference" for name in ("b.png", "c.png")
    ]


def test_odd_names_are_rows(tmp_path: Path) -> None:
    names = ["/", "", "..", "../x.png", "/abs.png", ".png", "a", "v1.0/a.b.png", "line\nfeed.png"]
    items = all_items(archive(tmp_path / "set.tar", dict.fromkeys(names, b"x")))
    assert [item.id for item in items] == [
        *("/", "", "..", "../x", "/abs", ".png", "a", "v1.0/a", "line\nfeed")
    ]
    assert [item.path for item in items if item.path] == [
        *("../x.png", "/abs.png", "v1.0/a.b.png", "line\nfeed.png")
    ]


def test_a_concatenation_is_refused(tmp_path: Path) -> None:
    first, second = (archive(tmp_path / f"{name}.tar", {f"{name}.png": b"x"}) for name in "ab")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(OptionError, match=r"joined.tar: is a concatenation of tars"):
        all_items(joined)
    joined.write_bytes(first.read_bytes() + b"no header".ljust(512, b"-"))
    assert [item.id for item in all_items(joined)] == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="the options are those of GNU tar")
@pytest.mark.parametrize("format", ["gnu", "pax"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_sparse_member_is_refused(tmp_path: Path, format: str, version: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
    command = ("tar", "--sparse", f"--format={format}", "-C", str(tmp_path), "-cf", str(tmp_path / "set.tar"))
    options = (f"--sparse-version={version}",) if format == "pax" else ()
    subprocess.run((*command, *options, "a.png"), check=True)
    with pytest.raises(OptionError, match=r"a.png is sparse; create the tar without --sparse"):
        all_items(tmp_path / "set.tar")


def pax(path: Path, headers: dict[str, str], repeat: int = 1) -> Path:
    """Write a tar whose member has extended headers, several times."""
    info = tarfile.TarInfo("a.png")
    info.pax_headers = headers
    whole = info.tobuf(tarfile.PAX_FORMAT)
    extended = whole[: len(whole) - tarfile.BLOCKSIZE]
    path.write_bytes(extended * repeat + whole[len(extended) :] + bytes(10240))
    return path


@pytest.mark.parametrize(
    ("headers", "repeat"),
    [
        ({"GNU.sparse.map": "0,x"}, 1),
        ({"GNU.sparse.map": "", "GNU.sparse.size": ""}, 1),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, 1),
        ({"comment": "again"}, 5000),
        ({"size": "-1024"}, 1),
        ({"size": str(10**30)}, 1),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, headers: dict[str, str], repeat: int) -> None:
    with pytest.raises(OptionError, match=r"set.tar: is compressed, or damaged after|sparse"):
        all_items(pax(tmp_path / "set.tar", headers, repeat))


def test_a_huge_header_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path = tmp_path / "set.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)  # a file with a hole
    with pytest.raises(OptionError, match=r"set.tar: is compressed, or damaged after"):
        all_items(path)

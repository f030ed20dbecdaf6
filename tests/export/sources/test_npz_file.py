"""Damaged, hostile and unsuitable archives are refused with one line that names the file and the remedy."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paligemma_onnx.export.sources.npz_file import open_npz
from paligemma_onnx.model.checkpoint.errors import CheckpointError

ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b/w": np.ones(5, np.float16)}


def npy(array: NDArray[Any], header: dict[str, object] | None = None) -> bytes:
    """Return an .npy file, whose header may contradict its data."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, np.lib.format.header_data_from_array_1_0(array) | (header or {})
    )
    return file.getvalue() + array.tobytes()


def write_members(path: Path, members: list[tuple[str, bytes]], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez(tmp_path / "model.npz", **ARRAYS)  # type: ignore[arg-type]
    return tmp_path / "model.npz"


def test_arrays_are_found(path: Path) -> None:
    opened = open_npz(path)
    assert opened.keys() == ARRAYS.keys()
    for key, array in opened.items():
        assert np.array_equal(array.map(array.dtype), ARRAYS[key])


def test_archive_of_zip_tools(tmp_path: Path) -> None:
    """Entries of folders, data descriptors and a comment are part of the format."""
    path = tmp_path / "model.npz"
    with path.open("wb") as file:
        file.write(b"text before the archive")
        stream = io.BufferedWriter(file.raw)
        stream.seekable = lambda: False  # type: ignore[method-assign]  # so that zipfile writes data descriptors
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("b/", b"")
            for key, array in ARRAYS.items():
                archive.writestr(f"{key}.npy", npy(array))
            archive.comment = b"made by hand"
    opened = open_npz(path)
    for key, expected in ARRAYS.items():
        assert np.array_equal(opened[key].map(expected.dtype), expected)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compress(path: Path) -> None:
    np.savez_compressed(path, **ARRAYS)  # type: ignore[arg-type]


def bomb(path: Path) -> None:
    """Write a member that unpacks to 128 MiB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(8):
            member.write(bytes(1 << 24))


def repeat(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        write_members(path, [("a.npy", npy(ARRAYS["a"]))] * 2)


def overlap(path: Path) -> None:
    """Let the directory give two members one position."""
    write_members(path, [("a.npy", npy(ARRAYS["a"])), ("b.npy", npy(ARRAYS["a"]))])
    content = path.read_bytes()
    second = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :])


def lie_about_size(path: Path) -> None:
    """Let the directory say that a member reaches into the next one."""
    write_members(path, [("a.npy", npy(ARRAYS["a"])), ("b.npy", npy(ARRAYS["a"]))])
    content = path.read_bytes()
    first = content.index(b"PK\x01\x02")
    size = struct.pack("<II", *[len(npy(ARRAYS["a"])) + 80] * 2)
    path.write_bytes(content[: first + 20] + size + content[first + 28 :])


def claim_huge_directory(path: Path) -> None:
    content = path.read_bytes() + bytes(1 << 25)
    with path.open("wb") as file:
        file.write(content)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, len(content), 0, 0))


def encrypt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def pickled(path: Path) -> None:
    np.savez(path, a=np.array([{}], dtype=object))


def with_header(**header: object) -> Callable[[Path], object]:
    return lambda path: write_members(path, [("a.npy", npy(ARRAYS["a"], header))])


def with_content(content: bytes) -> Callable[[Path], object]:
    return lambda path: write_members(path, [("a.npy", content)])


NOT_COMPLETE = "is not a complete .npz archive"
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (cut, NOT_COMPLETE),
    (cut_in_half, NOT_COMPLETE),
    (lambda path: path.write_bytes(b""), NOT_COMPLETE),
    (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(17)), NOT_COMPLETE),
    (lambda path: path.write_bytes(b"\x93NUMPY" * 99), NOT_COMPLETE),
    (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    (Path.unlink, "no such file"),
    (compress, "compressed members, which cannot be read in parts; unpack the archive and write it again"),
    (bomb, "compressed members"),
    (repeat, "several members of the same name: a.npy"),
    (overlap, NOT_COMPLETE),
    (lie_about_size, "overlap others: a.npy"),
    (claim_huge_directory, NOT_COMPLETE),
    (encrypt, "encrypted members: a.npy"),
    (lambda path: write_members(path, [("readme.txt", b"")]), "not arrays: readme.txt"),
    (with_content(b""), "'a' has a damaged header"),
    (with_content(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"), "'a' has a damaged header"),
    (with_content(b"\x93NUMPY\x01\x00\x40\x1f" + b"-" * 8000), "'a' has a damaged header"),
    (with_content(b"\x93NUMPY\x09\x00\x01\x00 "), "'a' has a damaged header"),
    (with_header(shape=(3, 5)), "'a' has 48 bytes, its header needs 60"),
    (with_header(shape=(3,)), "'a' has 48 bytes, its header needs 12"),
    (with_header(shape=(-3, -4)), "'a' has 48 bytes"),
    (with_header(shape=(2**62, 2**62)), "'a' has 48 bytes"),
    (pickled, "'a' holds Python objects, which are never read"),
    (with_header(descr="<f7"), "'a' has a damaged header"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_archives_are_refused(path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        open_npz(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()

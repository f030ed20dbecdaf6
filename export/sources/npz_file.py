"""The arrays of an uncompressed .npz archive, located in the file (format: numpy.lib.format).

numpy reads a whole array at a time, and a stacked array of a checkpoint holds gigabytes. The archive is a zip
file whose members are .npy files. An uncompressed member is a contiguous range of bytes, so a part of an
array can be read without the rest. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names, quote_value
from paligemma_onnx.model.checkpoint.json_file import LFS_POINTER, read_start

MAX_DIRECTORY_BYTES = 1 << 24  # a member takes about 150 bytes of the directory of the archive
MAX_HEADER_BYTES = 1 << 12  # numpy pads the header of an array of few axes to 128 bytes
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
SIGNATURE = b"PK\x03\x04"
ENCRYPTED, UTF_8 = 1 << 0, 1 << 11  # flags of a member (APPNOTE.TXT of PKWARE, section 4.4.4)


@dataclass(frozen=True)
class StoredArray:
    """An array of an archive. The dtype and the shape are those in the header of the array."""

    path: Path
    key: str  # name of the member without .npy
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    _offset: int  # position of the first element, in bytes from the start of the archive
    _order: Literal["C", "F"]

    def map(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a read-only mapping of the array; elements are read as `dtype`, of the same size.

        The elements may be unaligned, because a zip file does not align its members. NumPy copies unaligned
        elements correctly.
        """
        return np.memmap(self.path, dtype, "r", self._offset, self.shape, self._order)


class _BoundedReader(io.BufferedReader):
    """A file that refuses to read the directory of an archive if the directory is huge."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile
        return super().read(size)


def open_npz(path: Path) -> dict[str, StoredArray]:
    """Return the arrays of an archive by key. Only the directory and the headers are read.

    Raises:
        CheckpointError: the file cannot be read, is not a complete archive, or has compressed, encrypted,
            duplicate or overlapping members, or a member that is not an array.
    """
    read_start(path, len(LFS_POINTER))  # raises an error for LFS pointers, folders, pipes and devices
    try:
        with _BoundedReader(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(path, members)
            ranges = [(member.header_offset, _find_data(file, member)) for member in members]
            _check_ranges(path, members, ranges, archive.start_dir)
            return {
                array.key: array
                for member, (_, start) in zip(members, ranges, strict=True)
                for array in [_read_header(path, file, member, start)]
            }
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes, zipfile raises errors of many classes
        raise CheckpointError(
            f"{path}: is not a complete .npz archive (numpy.savez); fetch the file again"
        ) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.orig_filename for member in members]
    if others := [name for name in names if not name.endswith(".npy")]:
        raise CheckpointError(f"{path}: holds members that are not arrays: {quote_names(others)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CheckpointError(f"{path}: holds several members of the same name: {quote_names(twice)}")
    if encrypted := [member.orig_filename for member in members if member.flag_bits & ENCRYPTED]:
        raise CheckpointError(f"{path}: holds encrypted members: {quote_names(encrypted)}")
    if compressed := [
        member.orig_filename for member in members if member.compress_type != zipfile.ZIP_STORED
    ]:
        raise CheckpointError(
            f"{path}: holds compressed members, which cannot be read in parts; unpack the archive and write "
            f"it again with numpy.savez or `zip -0`: {quote_names(compressed)}"
        )


def _find_data(file: io.BufferedReader, member: zipfile.ZipInfo) -> int:
    """Return the position of the first byte of a member, after its local header."""
    file.seek(member.header_offset)
    name_length: int
    extra_length: int
    signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    name = file.read(name_length).decode("utf-8" if member.flag_bits & UTF_8 else "cp437")
    if signature != SIGNATURE or name != member.orig_filename or member.compress_size != member.file_size:
        raise zipfile.BadZipFile
    return member.header_offset + LOCAL_HEADER.size + name_length + extra_length


def _check_ranges(
    path: Path, members: list[zipfile.ZipInfo], ranges: list[tuple[int, int]], directory: int
) -> None:
    """Raise CheckpointError if a member overlaps the next one, or the directory at the end of the archive."""
    ordered = sorted(
        (first, start + member.file_size, member.orig_filename)
        for member, (first, start) in zip(members, ranges, strict=True)
    )
    limits = [first for first, _, _ in ordered[1:]] + [directory]
    if overlapping := [name for (_, end, name), limit in zip(ordered, limits, strict=False) if end > limit]:
        raise CheckpointError(f"{path}: holds members that overlap others: {quote_names(overlapping)}")


def _read_header(path: Path, file: io.BufferedReader, member: zipfile.ZipInfo, start: int) -> StoredArray:
    """Return a member as an array whose size agrees with its header."""
    key = member.orig_filename.removesuffix(".npy")
    file.seek(start)
    header = io.BytesIO(file.read(min(member.file_size, MAX_HEADER_BYTES)))
    try:
        version = npy.read_magic(header)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read(header)
    except Exception as error:  # numpy evaluates the header as a Python literal
        raise CheckpointError(f"{path}: {quote_value(key)} has a damaged header") from error
    if dtype.hasobject:
        raise CheckpointError(f"{path}: {quote_value(key)} holds Python objects, which are never read")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or header.tell() + needed != member.file_size:
        raise CheckpointError(
            f"{path}: {quote_value(key)} has {member.file_size - header.tell()} bytes, its header needs "
            f"{needed}; fetch the file again"
        )
    return StoredArray(path, key, dtype, tuple(shape), start + header.tell(), "F" if is_fortran else "C")

"""Members of a tar with their location, read from the headers alone; a tar that hides members is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import OptionError
from .folder import is_system_file
from .input_files import translate_input_errors
from .items import Slice
from .rows import replace_surrogates

MAX_HEADER_BYTES = 1 << 20  # size of an extended header, which has a few names of at most 4,096 bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    content: Slice | None  # None: the member is a link, which has no content


# tarfile raises TarError for most damaged headers, and the other classes for damaged numbers and lists.
_TAR_ERRORS = (
    *(tarfile.TarError, EOFError, OSError),
    *(ValueError, LookupError, ArithmeticError, RecursionError),
)


class _BoundedReader(io.BufferedReader):
    """A file that refuses reads of more than MAX_HEADER_BYTES, which a damaged header may ask for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too large")
        return super().read(size)


def read_members(path: Path) -> Iterator[Member]:
    """Iterate over the files and links of a tar in order, without those that an operating system adds.

    Raises:
        OptionError: the tar is damaged, compressed, or a concatenation, or a member is sparse.
    """
    name = "its beginning"
    with translate_input_errors(path):
        raw = io.FileIO(path)
    try:
        with (
            _BoundedReader(raw) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            end = -1
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every header in memory
                if tar.offset <= end or info.size < 0:  # a negative size would read a member again and again
                    raise tarfile.ReadError("a member ends before it begins")
                name, end = info.name, tar.offset
                if info.issparse():
                    raise OptionError(
                        f"{path}: {replace_surrogates(name)} is sparse; create the tar without --sparse"
                    )
                if is_system_file(PurePosixPath(name)) or not (info.isreg() or info.islnk() or info.issym()):
                    continue
                content = Slice(path, info.offset_data, info.size) if info.isreg() else None
                yield Member(name, content)
            _check_end(path, file, tar.offset)
    except _TAR_ERRORS as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"{path}: is compressed, or damaged after {replace_surrogates(name)}; "
            "decompress it or download it again"
        ) from error


def _check_end(path: Path, file: io.BufferedReader, offset: int) -> None:
    """Raise an exception unless the archive ends at `offset` with a block of zeros and none follows it.

    tarfile treats a damaged header as the end of the archive, and ignores a second archive after the end.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("a header is damaged")
    while block := file.read(tarfile.BLOCKSIZE):
        if any(block):
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            raise OptionError(
                f"{path}: is a concatenation of tars; pass them one by one, or pack their files into one tar"
            )

"""Reading of input files: the encoding of text, and errors of the file system.

Text is UTF-8, or has the encoding that its byte order mark (BOM) names: Windows PowerShell 5 writes UTF-16
with a BOM. Bytes that are not UTF-8 become surrogates, because a path may contain any byte.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import OptionError
from ..resource_errors import resource_problem

# UTF-32 comes before UTF-16: the BOM of UTF-32-LE begins with that of UTF-16-LE. The decoder drops the BOM.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_START_BYTES = 4096  # bytes at the start of a file in which NUL bytes are counted
_BLOCK_BYTES = 1 << 20
_MAX_PATH = 200  # characters of a path in a message


def decode_text(content: bytes) -> str:
    """Return the text of a file's content.

    Raises:
        ValueError: the content is not valid UTF-16 or UTF-32, although its BOM names this encoding.
    """
    encoding, errors = _encoding(content)
    try:
        return content.decode(encoding, errors)
    except UnicodeError:
        raise ValueError(f"is not valid {encoding.upper()}") from None


@contextmanager
def open_text(path: Path, *, newline: str) -> Iterator[TextIO]:
    """Open a text file; `newline` as in `open`.

    Raises:
        OptionError: the file cannot be read or is not text.
    """
    with translate_input_errors(path):
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        encoding, errors = _encoding(start)
        if encoding == "utf-8" and 3 * start.count(0) > len(start):
            raise OptionError(
                f"{path}: has many NUL bytes, like UTF-16 without a byte order mark; save it as UTF-8"
            )
        try:
            with path.open(encoding=encoding, errors=errors, newline=newline) as text:
                yield text
        except UnicodeError as error:
            raise OptionError(f"{path}: is not valid {encoding.upper()}; save it as UTF-8") from error


def is_decodable(path: Path) -> bool:
    """Return whether all bytes of a text file are valid in its encoding; raise the errors of `open_text`."""
    with translate_input_errors(path), path.open("rb") as file:
        decoder = codecs.getincrementaldecoder(_encoding(file.read(_START_BYTES))[0])()
        file.seek(0)
        try:
            while block := file.read(_BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@contextmanager
def translate_input_errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system while the block reads an input file or folder.

    Raises:
        OptionError: the input cannot be read. If memory or file descriptors are exhausted, the OSError of the
            block is not translated.
    """
    try:
        yield
    except OSError as error:
        if resource_problem(error):
            raise
        name = str(path) if len(str(path)) <= _MAX_PATH else f"{str(path)[:_MAX_PATH]}..."
        raise OptionError(f"{name}: cannot be read ({error.strerror}); check --input") from error


def _encoding(start: bytes) -> tuple[str, str]:
    """Return the encoding and the error handler for a text that begins with these bytes."""
    encoding = next((name for bom, name in _BOMS if start.startswith(bom)), "utf-8")
    return encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict"

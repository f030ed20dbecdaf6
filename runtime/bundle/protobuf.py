"""Protocol Buffers' wire format, as much as it takes to walk through a file (protobuf.dev, "Encoding").

A message is a row of fields, each a key and a value; what a field means is the caller's to know. Bytes are
looked at where they lie, nothing is copied, and what is inside a field is read only if somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not written any more
WIDTHS = {FIXED64: 8, FIXED32: 4}  # bytes
LONGEST_VARINT = 10  # bytes: 64 bits, 7 a byte


class WireError(ValueError):
    """The bytes are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: whole numbers as int (unsigned), all else as the bytes it has.

    Raises:
        WireError: where the message is damaged, once what stands before has been given.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has number 0")
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            width, place = _varint(message, place)
        elif kind in WIDTHS:
            width = WIDTHS[kind]
        else:
            raise WireError(f"field {number} has wire type {kind}")
        if width > len(message) - place:
            raise WireError(f"field {number} ends behind its message")
        yield number, message[place : place + width]
        place += width


def signed(value: int) -> int:
    """A varint read as int64, which negative numbers are written as."""
    return value - (1 << 64) if value >> 63 else value


def varints(packed: memoryview) -> Iterator[int]:
    """The whole numbers of a packed field; raises WireError."""
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """An unsigned whole number, and the place behind it."""
    value = 0
    for index, byte in enumerate(message[place : place + LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >> 64:
                break
            return value, place + index + 1
    raise WireError("a number does not end")

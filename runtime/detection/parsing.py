"""What `detect` and `segment` write, read back: boxes, labels and mask codes.

An object is four `<loc>` tokens (top, left, bottom, right), for a mask 16 `<seg>` tokens, and a label;
objects are separated by ` ; ` (arXiv 2407.07726, section 3.2.1). A model may write anything: what is no
object is left out and said, nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..bundle.schema import SEG_TOKENS_PER_MASK
from ..text.special_tokens import LAST_LOCATION, LAST_SEGMENT

_LOCATION = r"<loc([0-9]{4})>"  # \d would take the digits of every script
_OBJECT = re.compile(rf"{_LOCATION * 4}((?:<seg[0-9]{{3}}>)*)([^<]*)")


@dataclass(frozen=True)
class Box:
    """A rectangle in shares of the picture's height and width, from the top left corner."""

    top: float
    left: float
    bottom: float
    right: float

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of a picture of that size."""
        return self.left * width, self.top * height, self.right * width, self.bottom * height


@dataclass(frozen=True)
class ParsedObject:
    """One object."""

    label: str
    box: Box
    codes: tuple[int, ...] | None  # 16 of 0 to 127 where a mask was written


@dataclass(frozen=True)
class ParsedAnswer:
    """All objects of an answer, in the order written."""

    found: tuple[ParsedObject, ...]
    warnings: tuple[str, ...]  # one for each group that is no object


def parse_answer(text: str) -> ParsedAnswer:
    """Read the objects in an answer of `detect` or `segment`; never raises."""
    found, warnings = list[ParsedObject](), list[str]()
    for group in filter(None, (part.strip() for part in text.split(";"))):
        one = _read(group)
        if isinstance(one, ParsedObject):
            found.append(one)
        else:
            warnings.append(f"{group[:80]!r} {one}")
    return ParsedAnswer(tuple(found), tuple(warnings))


def _read(group: str) -> ParsedObject | str:
    """One object, or what is wrong with it."""
    match = _OBJECT.fullmatch(group)
    if match is None:
        return "is not four <loc> tokens, then none or 16 <seg> tokens, then a label"
    *corners, segments, label = match.groups()
    top, left, bottom, right = (int(corner) for corner in corners)
    if max(top, left, bottom, right) > LAST_LOCATION:
        return f"has a location beyond {LAST_LOCATION}"
    if bottom <= top or right <= left:
        return "is a box without area"
    codes = tuple(int(code) for code in re.findall(r"[0-9]{3}", segments))
    if codes and (len(codes) != SEG_TOKENS_PER_MASK or max(codes) > LAST_SEGMENT):
        return f"has not {SEG_TOKENS_PER_MASK} <seg> tokens of 0 to {LAST_SEGMENT}"
    shares = (edge / LAST_LOCATION for edge in (top, left, bottom, right))
    return ParsedObject(label.strip(), Box(*shares), codes or None)

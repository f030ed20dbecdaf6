"""Parser of the answers to `detect` and `segment`: boxes, labels and mask tokens.

An object consists of four `<loc>` tokens (top, left, bottom, right), of 16 `<seg>` tokens if it has a mask,
and of a label. Objects are separated by ` ; ` (arXiv 2407.07726, section 3.2.5). A model may write any text.
A part of the answer that is not an object is left out with a warning; the parser does not guess its meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..bundle.schema import SEG_TOKENS_PER_MASK
from ..generation.constraints import LOCATIONS_PER_BOX
from ..text.special_tokens import LAST_LOCATION, LAST_SEGMENT

_LOCATION = r"<loc([0-9]{4})>"  # \d would match the digits of every script
_OBJECT = re.compile(rf"{_LOCATION * LOCATIONS_PER_BOX}((?:<seg[0-9]{{3}}>)*)([^<]*)")


@dataclass(frozen=True)
class Box:
    """A rectangle. The edges are fractions (0 to 1) of the image's height or width, from the top left."""

    top: float
    left: float
    bottom: float
    right: float

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in pixels of an image of `width` x `height` pixels."""
        return self.left * width, self.top * height, self.right * width, self.bottom * height


@dataclass(frozen=True)
class ParsedObject:
    """One object that was parsed from an answer."""

    label: str
    box: Box
    mask_tokens: tuple[int, ...] | None  # 16 numbers from 0 to 127; None if no mask was written
    # Positions in the text of the answer: begin and end of the <loc> tokens, begin and end of the label.
    positions: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class ParsedAnswer:
    """The objects of an answer in the order written, and a warning for each part that is not an object."""

    objects: tuple[ParsedObject, ...]
    warnings: tuple[str, ...]


def parse_answer(text: str) -> ParsedAnswer:
    """Return the objects in an answer to `detect` or `segment`, and warnings.

    Never raises.

    Example:
        >>> parse_answer("<loc0000><loc0000><loc1023><loc1023> cat").objects
        (ParsedObject(label='cat', box=Box(top=0.0, left=0.0, bottom=1.0, right=1.0), mask_tokens=None),)
    """
    objects, warnings = list[ParsedObject](), list[str]()
    for found in re.finditer(r"[^;]+", text):
        part = found[0].strip()
        if not part:
            continue
        parsed = _parse_object(part, found.start() + found[0].index(part))
        if isinstance(parsed, ParsedObject):
            objects.append(parsed)
        else:
            warnings.append(f"{part[:80]!r} {parsed}")
    return ParsedAnswer(tuple(objects), tuple(warnings))


def _parse_object(part: str, start: int) -> ParsedObject | str:
    """Return the object that a part of an answer describes, or a text that says why it is not an object.

    `start` is the position of the part in the answer.
    """
    match = _OBJECT.fullmatch(part)
    if match is None:
        return "is not four <loc> tokens, then none or 16 <seg> tokens, then a label"
    *locations, segments, label = match.groups()
    top, left, bottom, right = (int(location) for location in locations)
    if max(top, left, bottom, right) > LAST_LOCATION:
        return f"has a location beyond {LAST_LOCATION}"
    if bottom <= top or right <= left:
        return "is a box without area"
    mask_tokens = tuple(int(number) for number in re.findall(r"[0-9]{3}", segments))
    if mask_tokens and (len(mask_tokens) != SEG_TOKENS_PER_MASK or max(mask_tokens) > LAST_SEGMENT):
        return f"does not have {SEG_TOKENS_PER_MASK} <seg> tokens of 0 to {LAST_SEGMENT}"
    edges = (edge / LAST_LOCATION for edge in (top, left, bottom, right))
    positions = (start, start + match.end(4) + 1, start + match.start(6), start + match.end(6))
    return ParsedObject(label.strip(), Box(*edges), mask_tokens or None, positions)

"""Pictures of the validation report: embedded once, and drawn with what each side found in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from paligemma_onnx.runtime.detection.parsing import ParsedObject

from .html_markup import Markup, tag

LONGEST = 800  # pixels of the longer side: enough to judge a box by, and a report stays small
TINY = 200  # pixels; below it is drawn pixel by pixel, and stored without loss
QUALITY = 85  # of JPEG, Pillow's scale
FRAME = 36  # units around the picture, for labels of boxes at its edges
NARROWEST = 420  # units, so that labels fit beside a picture that is narrow
FONT = 26  # units; about 12 pixels on a telephone, 18 on a screen
LABEL_CHARS = 24  # of a label; the table has all of it
CHAR = 0.6  # of FONT: the width of a letter


@dataclass(frozen=True)
class Embedded:
    """A picture for the report, no larger than it is shown."""

    label: str  # what it is, for who does not see it
    width: int  # units that it is drawn in
    height: int
    uri: str  # data:...
    tiny: bool


def embed(rgb: Image.Image, label: str) -> Embedded:
    """Reduce and encode an upright picture; the one given is not changed."""
    longest = max(rgb.size)
    tiny = longest < TINY
    shown = rgb.copy()
    shown.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG" if tiny else "JPEG", quality=QUALITY)  # PNG has no quality
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (max(1, round(side * LONGEST / longest)) for side in rgb.size)
    return Embedded(label, width, height, f"data:image/{'png' if tiny else 'jpeg'};base64,{content}", tiny)


def store(pictures: Sequence[Embedded]) -> Markup:
    """All pictures, once; `drawn` refers to them."""
    images = [
        tag(
            "image",
            id=f"picture-{number}",
            href=one.uri,
            width=one.width,
            height=one.height,
            preserveAspectRatio="none",
            class_="tiny" if one.tiny else None,
        )
        for number, one in enumerate(pictures)
    ]
    return tag("svg", tag("defs", *images), width=0, height=0, class_="store", aria_hidden="true")


def drawn(
    number: int,
    picture: Embedded,
    reference: Sequence[ParsedObject] = (),
    bundle: Sequence[ParsedObject] = (),
) -> Markup:
    """A picture with boxes of both sides: the reference's in whole lines, the bundle's dashed."""
    width = max(picture.width, NARROWEST)
    sides = {"R": reference, "B": bundle}
    # Halos below all lines: of two boxes in one place the dashes let the whole line through.
    boxes = [tag("path", d=_path(picture, one), class_="halo") for side in sides.values() for one in side]
    for side, objects in sides.items():
        boxes += [tag("path", d=_path(picture, one), class_=f"box {side}") for one in objects]
        boxes += [_label(picture, width, one, f"{side}{at}") for at, one in enumerate(objects, start=1)]
    found = f": {len(reference)} boxes of the reference, {len(bundle)} of the bundle" if boxes else ""
    frame = FRAME if boxes else 0
    return tag(
        "svg",
        tag("use", href=f"#picture-{number}"),
        *boxes,
        viewBox=f"0 {-frame} {width} {picture.height + 2 * frame}",
        preserveAspectRatio="xMinYMid",
        role="img",
        aria_label=f"{picture.label}{found}",
        class_="picture",
    )


def sample(side: str) -> Markup:
    """A piece of the line that a side's boxes are drawn with."""
    line = [tag("path", d="M2,8H46", class_=kind) for kind in ("halo", f"box {side}")]
    return tag("svg", *line, viewBox="0 0 48 16", class_=f"glyph line {side}", aria_hidden="true")


def _path(picture: Embedded, one: ParsedObject) -> str:
    left, top, right, bottom = one.box.pixels(picture.width, picture.height)
    return f"M{left:.1f},{top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z"


def _label(picture: Embedded, width: int, one: ParsedObject, name: str) -> Markup:
    """A box' name, above it or, of the bundle's, below: of two in one place both can be read."""
    left, top, _, bottom = one.box.pixels(picture.width, picture.height)
    label = one.label if len(one.label) <= LABEL_CHARS else f"{one.label[: LABEL_CHARS - 1]}…"
    text, side = f"{name} {label}", name[0]
    start = max(0.0, min(left, width - CHAR * FONT * len(text)))
    line = top - 6 if side == "R" else bottom + FONT
    return tag("text", text, x=start, y=line, font_size=FONT, class_=f"name {side}")

"""Of the validation report: the boxes that both sides see in the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from .embedded_images import Embedded, drawn, sample
from .findings import Answer, ModelAnswer
from .html_markup import Markup, joined, table, tag


def objects(answers: Sequence[Answer], pictures: Sequence[Embedded]) -> Markup:
    """Each answer that names places, drawn over the pictures and in numbers."""
    found = [answer for answer in answers if _locates(answer)]
    if not found:
        return Markup("")
    several = "All pictures were shown together; an answer does not say which one a box is of." * (
        len(pictures) > 1
    )
    return tag(
        "section",
        tag("h2", "Objects"),
        tag(
            "ul",
            tag("li", sample("R"), " R: the reference"),
            tag("li", sample("B"), " B: the bundle"),
            class_="legend",
        ),
        tag("p", several) if several else "",
        *(_located(answer, pictures) for answer in found),
    )


def _locates(answer: Answer) -> bool:
    return any(side.objects or side.unread for side in (answer.reference, answer.bundle))


def _located(answer: Answer, pictures: Sequence[Embedded]) -> Markup:
    both = (answer.reference.objects, answer.bundle.objects)
    figures = [tag("figure", drawn(number, one, *both), class_="seen") for number, one in enumerate(pictures)]
    rows = [*_rows("R", answer.reference), *_rows("B", answer.bundle)]
    columns = ("object", "label", "left", "top", "right", "bottom", "mask")
    unread = [
        tag("li", f"{side}: {text}")
        for side, one in (("R", answer.reference), ("B", answer.bundle))
        for text in one.unread
    ]
    return joined(
        tag("h3", answer.prompt, class_="text"),
        tag("div", *figures, class_="charts"),
        table("Boxes in shares of the picture's width and height", columns, rows),
        tag("p", "Not read as objects:") if unread else "",
        tag("ul", *unread) if unread else "",
    )


def _rows(side: str, one: ModelAnswer) -> list[tuple[str, ...]]:
    return [
        (
            f"{side}{number}",
            found.label,
            *(f"{edge:.3f}" for edge in found.box.pixels(1, 1)),
            "yes" if found.codes else "no",
        )
        for number, found in enumerate(one.objects, start=1)
    ]

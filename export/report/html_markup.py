"""HTML and SVG by small functions; text becomes markup in one place, which escapes it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from html import escape

# Characters that turn the order of those around them (Unicode Standard Annex 9, explicit formatting).
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EMPTY = ("meta", "br")  # HTML elements that have no end tag


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: markup is taken as it is, all other text is escaped.
        attributes: one that is None is left out; a trailing underscore is dropped (`class_`) and others
            become hyphens (`aria_label`). Numbers are written with two decimals at most.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*parts: str) -> Markup:
    """Parts one after the other, each escaped unless it is markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(_printable(part)) for part in parts))


def table(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Markup:
    """A table whose first column names the rows; it scrolls sideways where it is wider than the page."""
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)


def _text(value: str | float) -> str:
    return _printable(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _printable(text: str) -> str:
    """The same with what no document may hold, or what turns the order of letters, spelt out."""
    return "".join(char.encode("unicode_escape").decode() if _strange(char) else char for char in text)


def _strange(char: str) -> bool:
    controls = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return controls or char in TURNING

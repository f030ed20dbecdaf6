"""The validation report as a single HTML file, which contains no scripts and loads no other files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from os.path import commonprefix
from statistics import fmean

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .chart_scales import format_limit
from .embedded_images import EmbeddedImage
from .error_sections import format_error, largest_error, summarize_errors
from .report_data import ReportData
from .token_sections import summarize_tokens

# Characters that change the order of neighbouring characters (Unicode Standard Annex 9, explicit formatting).
BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def render_page(data: ReportData, images: Sequence[EmbeddedImage]) -> str:
    """Return the HTML document.

    Args:
        data: content of the report.
        images: the images of `data.images`, in the same order.
    """
    return _ENVIRONMENT.get_template("page.html").render(
        data=data,
        validation=data.validation,
        images=images,
        errors=summarize_errors(data.validation.comparison),
        tokens=summarize_tokens(data.validation.comparison, data.answers),
        style=Markup(files(__package__).joinpath("report.css").read_text(encoding="utf-8")),
    )


def _output(value: object) -> object:
    """Format a value that a template prints; Jinja escapes the result.

    A float has at most two decimals. In a text, characters that are not printable are replaced.
    """
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, str) and not isinstance(value, Markup):
        return "".join(map(_printable, value))
    return value


def _printable(char: str) -> str:
    """Return a character, or its escape sequence if it is a control character or one of `BIDI_CONTROLS`.

    HTML does not allow control characters.
    """
    is_control = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return char.encode("unicode_escape").decode() if is_control or char in BIDI_CONTROLS else char


_ENVIRONMENT = Environment(
    loader=PackageLoader("paligemma_onnx.export.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_output,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "error": format_error,
    "fields": lambda record: vars(record).items(),
    "largest_error": largest_error,
    "limit": format_limit,
    "mean": fmean,
    "repr": repr,
}
_ENVIRONMENT.globals["common_prefix"] = lambda *texts: commonprefix(texts)  # noqa: RUF071  texts, not paths

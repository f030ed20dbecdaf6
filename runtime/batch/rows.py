"""Rows of the output: one per input, with the answer or an error."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..detection.parsing import parse_answer
from ..errors import ImageError, NumericsError, OptionError, PaliGemmaError, PromptError, ResourceError
from ..generation.types import FinishReason
from ..resource_errors import resource_problem

# The first class that matches gives the code. Any other exception is a bug here or in a library.
_CODES = {
    ImageError: "image",
    PromptError: "prompt",
    OptionError: "prompt",  # a prompt that does not suit an option of the run, such as --constrained
    NumericsError: "numerics",
    ResourceError: "resources",
}


@dataclass(frozen=True)
class RowError:
    """Why an input has no answer."""

    code: str  # image, prompt, numerics, resources, input or unexpected
    message: str  # one line

    @classmethod
    def of(cls, error: Exception) -> RowError:
        """Return the error of a row for an exception."""
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
        if code is None and (problem := resource_problem(error)):
            return cls("resources", problem)
        text = str(error) if isinstance(error, PaliGemmaError) else f"{type(error).__name__}: {error}"
        return cls(code or "unexpected", replace_surrogates(" ".join(text.split())))


@dataclass(frozen=True)
class LabelledBox:
    """An object in the answer to `detect` or `segment`; edges in pixels of the image as displayed."""

    label: str
    x1: float  # left
    y1: float  # top
    x2: float  # right
    y2: float  # bottom


@dataclass(frozen=True)
class RowTimings:
    """Seconds per stage. Rows of a batch share the runs of the graphs: each has the time of the whole run."""

    open: float  # decoding and resizing the image, in a decoder thread
    vision: float
    prefill: float
    decode: float
    batch: int  # number of rows that shared the runs


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the output, as JSON or Parquet stores it; None where a value does not exist."""

    id: str
    path: str | None
    prompt: str | None
    width: int | None = None  # pixels, in the displayed orientation
    height: int | None = None
    text: str | None = None
    boxes: tuple[LabelledBox, ...] = ()
    finish_reason: FinishReason | None = None
    seed: int | None = None  # reproduces a sampled answer; None for a greedy answer
    error: RowError | None
    warnings: tuple[str, ...] = ()
    timings: RowTimings | None = None
    bundle_id: str

    def line(self) -> bytes:
        """Return the row as one line of ASCII JSON, with the line feed."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


def parse_boxes(text: str, width: int, height: int) -> tuple[tuple[LabelledBox, ...], tuple[str, ...]]:
    """Return the boxes of an answer in pixels of a width x height image, and a warning per malformed box."""
    if "<loc" not in text:
        return (), ()  # do not parse a caption, which may contain semicolons too
    answer = parse_answer(text)
    boxes = tuple(LabelledBox(parsed.label, *parsed.box.pixels(width, height)) for parsed in answer.objects)
    return boxes, answer.warnings


def replace_surrogates(text: str) -> str:
    """Return valid Unicode: surrogates, which stand for non-UTF-8 bytes of file names, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

"""One row of the output: what became of one input, whatever became of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..detection.parsing import parse_answer
from ..errors import ImageError, NumericsError, OptionError, PaliGemmaError, PromptError, ResourceError
from ..generation.types import FinishReason
from ..resource_errors import resource_problem

# The first that fits; an error of another class than these is a defect of ours or of a library.
_CODES = {
    ImageError: "image",
    PromptError: "prompt",
    OptionError: "prompt",  # a prompt that an option of the run does not suit
    NumericsError: "numerics",
    ResourceError: "resources",
}


@dataclass(frozen=True)
class RowError:
    """Why an input has no answer: `image`, `prompt`, `numerics`, `resources`, `input` or `unexpected`."""

    code: str
    message: str  # one line

    @classmethod
    def of(cls, error: Exception) -> RowError:
        """What a row says of an error."""
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
        if code is None and (words := resource_problem(error)):
            return cls("resources", words)
        text = str(error) if isinstance(error, PaliGemmaError) else f"{type(error).__name__}: {error}"
        return cls(code or "unexpected", readable(" ".join(text.split())))


@dataclass(frozen=True)
class LabelledBox:
    """An object that `detect` or `segment` found, in pixels of the picture as it is displayed."""

    label: str
    x1: float  # left
    y1: float  # top
    x2: float  # right
    y2: float  # bottom


@dataclass(frozen=True)
class RowTimings:
    """What a row took. Rows of a batch share their graphs' runs, so theirs is the time of all."""

    open: float  # decoding and resizing the picture, in a thread of its own
    vision: float
    prefill: float
    decode: float
    batch: int  # rows that shared the last three


@dataclass(frozen=True)
class Row:
    """What a line or record of a part holds; None where there is nothing to say."""

    id: str
    path: str | None
    prompt: str | None
    width: int | None  # pixels, in the displayed orientation
    height: int | None
    text: str | None
    boxes: tuple[LabelledBox, ...]
    finish_reason: FinishReason | None
    seed: int | None  # repeats a sampled answer; None for a greedy one, which needs none
    error: RowError | None
    warnings: tuple[str, ...]
    timings: RowTimings | None
    bundle_id: str

    def line(self) -> bytes:
        """The row as one line of JSON, in ASCII, with its line feed."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


def boxes_in(text: str, width: int, height: int) -> tuple[tuple[LabelledBox, ...], tuple[str, ...]]:
    """The boxes of an answer, in pixels of a picture of that size, and a warning for each malformed one."""
    if "<loc" not in text:
        return (), ()  # a caption may hold a semicolon, too
    objects = parse_answer(text)
    found = tuple(LabelledBox(one.label, *one.box.pixels(width, height)) for one in objects.found)
    return found, objects.warnings


def readable(text: str) -> str:
    """Text in valid Unicode: half characters, as names that are not UTF-8 have them, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

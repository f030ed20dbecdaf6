"""Rows of the output: one per input, with the answer or an error."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..detection.parsing import ParsedObject, parse_answer
from ..detection.scores import answer_text, score_object
from ..errors import (
    ImageError,
    NumericsError,
    OptionError,
    PaliGemmaError,
    PromptError,
    ResourceError,
    name_options,
)
from ..generation.types import FinishReason, Generation
from ..resource_errors import resource_problem
from ..text.tokenizer import PromptTokenizer

# The first class that matches an exception gives the code. An exception that matches no class is a bug in
# this package or in a library.
_CODES = {
    ImageError: "image",
    PromptError: "prompt",
    OptionError: "prompt",  # a prompt that does not suit an option of the run, such as --constrained
    NumericsError: "numerics",
    ResourceError: "resources",
}


@dataclass(frozen=True)
class RowError:
    """Reason why an input has no answer."""

    code: str  # image, prompt, numerics, resources, input or unexpected
    message: str  # one line

    @classmethod
    def of(cls, error: Exception) -> RowError:
        """Return the row error that describes an exception."""
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
        if code is None and (problem := resource_problem(error)):
            return cls("resources", problem)
        text = str(error) if isinstance(error, PaliGemmaError) else f"{type(error).__name__}: {error}"
        return cls(code or "unexpected", replace_surrogates(" ".join(name_options(text).split())))


@dataclass(frozen=True)
class LabelledBox:
    """An object in the answer to `detect` or `segment`; edges in pixels of the image as displayed."""

    label: str
    x1: float  # left
    y1: float  # top
    x2: float  # right
    y2: float  # bottom
    score: float | None = None  # as `Detection.score`; None without --logprobs


@dataclass(frozen=True)
class RowTimings:
    """Seconds per stage.

    The rows of a batch are computed in the same graph runs. The `vision`, `prefill` and `decode` seconds of a
    row are therefore the seconds of the whole batch, not a share of them.
    """

    open: float  # decoding and resizing the image, in a decoder thread
    vision: float
    prefill: float
    decode: float
    batch: int  # number of rows that were computed in the same graph runs


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the output, as JSON or Parquet stores it; a value that does not exist is None."""

    id: str
    path: str | None
    prompt: str | None
    width: int | None = None  # pixels, in the displayed orientation
    height: int | None = None
    text: str | None = None
    boxes: tuple[LabelledBox, ...] = ()
    tokens: tuple[str, ...] | None = None  # names of the answer's tokens; None without --logprobs
    logprobs: tuple[float, ...] | None = None  # logarithm of each token's probability
    finish_reason: FinishReason | None = None
    suffix: str | None = None  # the expected answer, if the input has one
    exact_match: bool | None = (
        None  # this and token_accuracy compare the answer with `suffix`, see scoring.py
    )
    token_accuracy: float | None = None
    seed: int | None = None  # reproduces a sampled answer; None for a greedy answer
    error: RowError | None
    warnings: tuple[str, ...] = ()
    timings: RowTimings | None = None
    bundle_id: str

    def line(self) -> bytes:
        """Return the row as one line of ASCII JSON, with the line feed."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


def parse_boxes(
    generation: Generation, tokenizer: PromptTokenizer, width: int, height: int
) -> tuple[tuple[LabelledBox, ...], tuple[str, ...]]:
    """Return the boxes of an answer, and one warning per malformed box.

    The edges of the boxes are in pixels of an image of `width` x `height` pixels.
    """
    text, starts = answer_text(generation, tokenizer)
    if "<loc" not in text:
        return (), ()  # do not parse a caption, which may contain semicolons too
    answer = parse_answer(text)

    def box(parsed: ParsedObject) -> LabelledBox:
        score = score_object(parsed, generation, starts)
        edges = parsed.box.pixels(width, height)
        return LabelledBox(parsed.label, *edges, None if score is None else score.product)

    return tuple(map(box, answer.objects)), answer.warnings


def replace_surrogates(text: str) -> str:
    """Return a text with its surrogates replaced by escape sequences, so that the text is valid Unicode.

    Surrogates stand for bytes of file names that are not UTF-8.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

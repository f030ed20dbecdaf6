"""What `detect` and `segment` give back: objects in a picture, to be read, stored or looked at."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cancellation import Cancellation
from ..errors import NumericsError, PromptError
from ..generation.types import Generation
from ..graphs.model_runner import ModelRunner
from .detection import Detection
from .drawing import draw
from .masks import Mask
from .parsing import ParsedObject, parse_answer


@dataclass(frozen=True)
class Detections(Sequence[Detection]):
    """All objects of an answer, in the order written; a notebook shows them drawn into the picture."""

    objects: tuple[Detection, ...]
    width: int  # pixels of the displayed picture
    height: int
    warnings: tuple[str, ...]  # of opening the picture, and one for each group that is no object
    generation: Generation
    image: Image.Image = field(repr=False, compare=False)  # RGB, upright

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.objects)

    def __getitem__(self, index: Any) -> Any:
        """One object, or a tuple of several."""
        return self.objects[index]

    @property
    def text(self) -> str:
        """What the model wrote."""
        return self.generation.text

    def drawn(self) -> Image.Image:
        """The picture in its own resolution with boxes, labels and masks drawn in."""
        return draw(self.image, self.objects)

    def as_json(self) -> dict[str, Any]:
        """Plain data: the answer's, with the picture's size and the objects."""
        return {
            **asdict(self.generation),
            "warnings": list(self.warnings),
            "width": self.width,
            "height": self.height,
            "objects": [one.as_json() for one in self.objects],
        }

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.drawn().save(file, "PNG")
        return file.getvalue()


def detections(generation: Generation, image: Image.Image, runner: ModelRunner, *, masks: bool) -> Detections:
    """Read an answer, and decode its masks where they are wanted.

    Args:
        generation: the answer.
        image: the picture in its displayed orientation.
        runner: decodes masks.
        masks: whether masks are wanted; without, codes are not looked at.

    Raises:
        BundleError: masks are wanted, and the bundle has no mask decoder.
        NumericsError: it answered with values that are not numbers.
    """
    read, size = parse_answer(generation.text), image.size
    coded = [found.codes for found in read.found if masks and found.codes is not None]
    decoded = runner.decode_masks(np.array(coded, dtype=np.int64), Cancellation()) if coded else np.zeros(0)
    if not np.isfinite(decoded).all():
        raise NumericsError(
            "the mask decoder answered with values that are not numbers; `paligemma-onnx export --strict` "
            "tells whether its weights hold NaN or infinity"
        )
    levels: Iterator[NDArray[np.float32]] = iter(decoded)

    def detection(found: ParsedObject) -> Detection:
        mask = Mask(next(levels), found.box, *size) if masks and found.codes is not None else None
        return Detection(found.label, found.box, found.box.pixels(*size), mask)

    objects = tuple(detection(found) for found in read.found)
    return Detections(objects, *size, (*generation.warnings, *read.warnings), generation, image)


def task_prompt(task: str, labels: str | Sequence[str]) -> str:
    """The prompt that asks for objects: the labels separated by ` ; `, after the task's name.

    Raises:
        PromptError: there is no label, or one is no text or holds a semicolon.
    """
    named = labels.split(";") if isinstance(labels, str) else labels
    if not isinstance(named, list | tuple) or not all(isinstance(label, str) for label in named):
        raise PromptError("labels must be text (str), one or a list of several")
    if any(";" in label for label in named):
        raise PromptError("a label holds a semicolon, which separates labels; give them one by one")
    kept = [label.strip() for label in named if label.strip()]
    if not kept:
        raise PromptError(f"nothing to {task} was named; give labels, such as 'cat ; dog'")
    return f"{task} {' ; '.join(kept)}"

"""Results of `detect` and `segment`: the objects of an answer with their boxes and masks in the image."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cancellation import Cancellation
from ..errors import NumericsError
from ..generation.types import Generation
from ..graphs.model_runner import ModelRunner
from ..text.tokenizer import PromptTokenizer
from .detection import Detection
from .drawing import draw
from .masks import Mask
from .parsing import ParsedObject, parse_answer
from .scores import answer_text, score_object


@dataclass(frozen=True)
class Detections(Sequence[Detection]):
    """The objects of an answer in the order written. A notebook displays the image with the objects drawn in.

    Attributes:
        objects: the objects; also available by index, iteration and `len`.
        width: pixels of the image in its displayed orientation.
        height: pixels of the image in its displayed orientation.
        warnings: warnings about opening the image, and about parts of the answer that are not objects. Each
            warning is one line.
        generation: the answer with its ids and timings.
        image: the image, RGB in its displayed orientation.
    """

    objects: tuple[Detection, ...]
    width: int
    height: int
    warnings: tuple[str, ...]
    generation: Generation
    image: Image.Image = field(repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.objects)

    def __getitem__(self, index: Any) -> Any:
        """Return the object at an index, or a tuple of objects for a slice."""
        return self.objects[index]

    @property
    def text(self) -> str:
        """The answer as the model wrote it."""
        return self.generation.text

    def drawn(self) -> Image.Image:
        """Return a copy of the image, in the same resolution, with boxes, labels and masks drawn in."""
        return draw(self.image, self.objects)

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON: the fields of the generation, the image's size and the objects."""
        return {
            **asdict(self.generation),
            "warnings": list(self.warnings),
            "width": self.width,
            "height": self.height,
            "objects": [detection.as_json() for detection in self.objects],
        }

    def _repr_png_(self) -> bytes:
        """Return the bytes of the PNG file that IPython displays."""
        file = io.BytesIO()
        self.drawn().save(file, "PNG")
        return file.getvalue()


def detections(
    generation: Generation,
    image: Image.Image,
    runner: ModelRunner,
    tokenizer: PromptTokenizer,
    *,
    masks: bool,
) -> Detections:
    """Return the objects of an answer, with decoded masks if `masks` is true.

    Args:
        generation: the answer.
        image: the image in its displayed orientation.
        runner: the open graphs, which decode masks.
        tokenizer: the bundle's tokenizer.
        masks: True: decode masks. False: ignore mask tokens.

    Raises:
        BundleError: masks are requested, and the bundle has no mask decoder.
        NumericsError: the mask decoder computed NaN or infinity.
    """
    text, starts = answer_text(generation, tokenizer)
    answer, size = parse_answer(text), image.size
    mask_tokens = [
        parsed.mask_tokens for parsed in answer.objects if masks and parsed.mask_tokens is not None
    ]
    decoded: Iterator[NDArray[np.float32]] = iter(())
    if mask_tokens:
        levels = runner.decode_masks(np.array(mask_tokens, dtype=np.int64), Cancellation())
        if not np.isfinite(levels).all():
            raise NumericsError(
                "the mask decoder computed NaN or infinity; `paligemma-onnx export --strict` checks whether "
                "its weights contain them"
            )
        decoded = iter(levels)

    def detection(parsed: ParsedObject) -> Detection:
        mask = Mask(next(decoded), parsed.box, *size) if masks and parsed.mask_tokens is not None else None
        score = score_object(parsed, generation, starts)
        scores = () if score is None else (score.box, score.label, score.product)
        return Detection(parsed.label, parsed.box, parsed.box.pixels(*size), mask, *scores)

    objects = tuple(detection(parsed) for parsed in answer.objects)
    return Detections(objects, *size, (*generation.warnings, *answer.warnings), generation, image)

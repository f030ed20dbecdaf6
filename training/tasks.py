"""Prompts about a scene and their correct answers.

The prompts have the forms PaliGemma is trained with (arXiv 2407.07726, section 3.2.5): `caption en`,
`answer en QUESTION`, `detect A ; B`, `segment A`. A scene has only questions with exactly one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from paligemma_onnx.runtime.text.special_tokens import LAST_LOCATION

from .scenes import SCENE_SIDE, Item, Scene
from .vocabulary import COLOURS, HELD_OUT_PAIRS, SHAPES

Kind = Literal["caption", "colour", "shape", "texture", "count", "position", "text", "detect", "segment"]
QUESTIONS: tuple[Kind, ...] = ("colour", "shape", "texture", "count", "position", "text")
KINDS: tuple[Kind, ...] = ("caption", "detect", "segment", *QUESTIONS)
LOCATIONS = LAST_LOCATION + 1  # location tokens, from one edge of the image to the other
MAX_NEW_TOKENS = 160  # per answer: five objects with masks take 5 * 23 tokens and EOS
MIN_OFFSET = 20  # pixels from the middle, or between two objects, from which a position is unambiguous
ABSENT_PERCENT = 10  # `detect` prompts that name an object which is not in the scene


@dataclass(frozen=True)
class Example:
    """A prompt and its correct answer."""

    kind: Kind
    prompt: str
    suffix: str  # the answer
    items: tuple[int, ...] = ()  # indices in `Scene.items` of the objects that the answer is about


def make_caption(scene: Scene) -> str:
    """Return a sentence with every object from left to right, then the printed text."""
    return _join([object_phrase(item) for item in scene.items], scene.sign)


def make_description(scene: Scene) -> str:
    """Return the caption with the position of each object, as used to train the vision tower in stage 1."""
    phrases = [f"{object_phrase(item)} at the {' '.join(_grid_position(item))}" for item in scene.items]
    return _join(phrases, scene.sign)


def make_example(
    scene: Scene, kind: Kind, rng: np.random.RandomState, mask_tokens: Sequence[Sequence[int]] | None = None
) -> Example | None:
    """Choose a prompt of a kind at random and return it with its answer.

    Args:
        scene: the scene that the prompt is about.
        kind: the kind of prompt.
        rng: chooses among the possible prompts.
        mask_tokens: 16 numbers of `<seg>` tokens for each item; required for `segment`.

    Returns:
        The example, or None if the scene has no prompt of this kind with exactly one answer.
    """
    if kind == "caption":
        return Example(kind, "caption en", make_caption(scene), tuple(range(len(scene.items))))
    if kind == "detect":
        return _detect(scene, rng)
    if kind == "segment":
        return None if mask_tokens is None else _segment(scene, rng, mask_tokens)
    examples = _LIST_EXAMPLES[kind](scene)
    return examples[rng.randint(len(examples))] if examples else None


def location_token(coordinate: float, side: int = SCENE_SIDE) -> str:
    """Return the location token of a coordinate (arXiv 2407.07726, section 5.3).

    Args:
        coordinate: distance from the top or left edge in pixels.
        side: distance of the far edge, which has the last token, in pixels.
    """
    return f"<loc{round(coordinate / side * LAST_LOCATION):04d}>"


def box_tokens(item: Item) -> str:
    """Return the four location tokens of an object's box: top, left, bottom, right."""
    left, top, right, bottom = item.box
    return "".join(map(location_token, (top, left, bottom, right)))


def seg_tokens(numbers: Sequence[int]) -> str:
    """Return the 16 `<seg>` tokens of a mask, row by row of the 4 x 4 grid."""
    return "".join(f"<seg{number:03d}>" for number in numbers)


def object_phrase(item: Item) -> str:
    """Return the phrase for an object in captions, for example "a striped blue ring"."""
    phrase = item.name if item.texture == "plain" else f"{item.texture} {item.name}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def sign_phrase(sign: str) -> str:
    """Return the phrase for a printed text in captions, for example "the word owl"."""
    return f"the {'number' if sign.isdigit() else 'word'} {sign}"


def _join(phrases: Sequence[str], sign: str | None) -> str:
    phrases = [*phrases, *([] if sign is None else [sign_phrase(sign)])]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _grid_position(item: Item) -> tuple[str, str]:
    """Return row and column of an object in a 3 x 3 grid."""
    x, y = item.centre
    return (
        ("top", "middle", "bottom")[int(y * 3 / SCENE_SIDE)],
        ("left", "centre", "right")[int(x * 3 / SCENE_SIDE)],
    )


def _unambiguous_phrases(scene: Scene) -> list[tuple[int, str]]:
    """Return (index, phrase) for each phrase, colour and shape or only the shape, that fits one item."""
    names, shapes = [item.name for item in scene.items], [item.shape for item in scene.items]
    by_name = [(i, name) for i, name in enumerate(names) if names.count(name) == 1]
    return by_name + [(i, shape) for i, shape in enumerate(shapes) if shapes.count(shape) == 1]


def _colour(scene: Scene) -> list[Example]:
    shapes = [item.shape for item in scene.items]
    return [
        Example("colour", f"answer en what colour is the {item.shape}?", item.colour, (i,))
        for i, item in enumerate(scene.items)
        if shapes.count(item.shape) == 1
    ]


def _shape(scene: Scene) -> list[Example]:
    colours = [item.colour for item in scene.items]
    return [
        Example("shape", f"answer en what shape is the {item.colour} object?", item.shape, (i,))
        for i, item in enumerate(scene.items)
        if colours.count(item.colour) == 1
    ]


def _texture(scene: Scene) -> list[Example]:
    return [
        Example("texture", f"answer en what texture is the {phrase}?", scene.items[i].texture, (i,))
        for i, phrase in _unambiguous_phrases(scene)
    ]


def _count(scene: Scene) -> list[Example]:
    def count_example(objects: str, items: Sequence[int]) -> Example:
        return Example("count", f"answer en how many {objects} are there?", str(len(items)), tuple(items))

    total = count_example("objects", range(len(scene.items)))
    by_shape = [
        count_example(
            f"{shape}es" if shape == "cross" else f"{shape}s",
            [i for i, item in enumerate(scene.items) if item.shape == shape],
        )
        for shape in SHAPES
    ]
    by_colour = [
        count_example(f"{colour} objects", [i for i, item in enumerate(scene.items) if item.colour == colour])
        for colour in COLOURS
    ]
    present = [example for example in by_shape + by_colour if example.items]
    absent = [example for example in by_shape + by_colour if not example.items]
    # Repetition makes "how many objects" and classes that are present more frequent than absent ones.
    return [total] * 4 + present * 3 + absent[:: max(1, len(absent) // 3)]


def _position(scene: Scene) -> list[Example]:
    single, pairs = list[Example](), list[Example]()
    phrases, middle = _unambiguous_phrases(scene), SCENE_SIDE / 2
    for i, phrase in phrases:
        x, y = scene.items[i].centre
        if abs(x - middle) > MIN_OFFSET and abs(y - middle) > MIN_OFFSET:
            corner = f"{'top' if y < middle else 'bottom'} {'left' if x < middle else 'right'}"
            single.append(Example("position", f"answer en where is the {phrase}?", corner, (i,)))
        for j, other_phrase in phrases:
            if i == j:
                continue
            other_x, other_y = scene.items[j].centre
            relation = "left" if x < other_x else "right"
            prompt = f"answer en is the {phrase} left or right of the {other_phrase}?"
            pairs.append(Example("position", prompt, relation, (i, j)))
            if abs(y - other_y) > MIN_OFFSET:
                relation = "above" if y < other_y else "below"
                prompt = f"answer en is the {phrase} above or below the {other_phrase}?"
                pairs.append(Example("position", prompt, relation, (i, j)))
    return single * 3 + pairs  # a scene has many more pairs of objects than objects


def _text(scene: Scene) -> list[Example]:
    return [] if scene.sign is None else [Example("text", "answer en what does it say?", scene.sign)]


_LIST_EXAMPLES: dict[Kind, Callable[[Scene], list[Example]]] = {
    "colour": _colour,
    "shape": _shape,
    "texture": _texture,
    "count": _count,
    "position": _position,
    "text": _text,
}


def _detect(scene: Scene, rng: np.random.RandomState) -> Example:
    """Ask for one to three classes, each a shape or a colour and a shape; in some prompts one is absent."""
    classes = [phrase for item in scene.items for phrase in (item.name, item.shape)]
    prompted = [classes[rng.randint(len(classes))] for _ in range(rng.randint(1, 4))]
    if rng.randint(100) < ABSENT_PERCENT:
        prompted[rng.randint(len(prompted))] = _absent_class(scene, rng)
    prompted = _drop_overlapping(prompted)
    items, answers = list[int](), list[str]()
    for phrase in prompted:
        for i, item in enumerate(scene.items):
            if i not in items and phrase in (item.name, item.shape):
                items.append(i)
                answers.append(f"{box_tokens(item)} {phrase}")
    return Example("detect", f"detect {' ; '.join(prompted)}", " ; ".join(answers), tuple(items))


def _drop_overlapping(classes: Sequence[str]) -> list[str]:
    """Drop classes that include an earlier class or are included in it, so that their objects differ."""
    distinct: list[str] = []
    for phrase in classes:
        if not any(phrase.endswith(other) or other.endswith(phrase) for other in distinct):
            distinct.append(phrase)
    return distinct


def _absent_class(scene: Scene, rng: np.random.RandomState) -> str:
    """Return a colour and shape, not held out, that no object of the scene has."""
    colours, names = list(COLOURS), [item.name for item in scene.items]
    while True:
        colour, shape = colours[rng.randint(len(colours))], SHAPES[rng.randint(len(SHAPES))]
        if f"{colour} {shape}" not in names and (colour, shape) not in HELD_OUT_PAIRS:
            return f"{colour} {shape}"


def _segment(scene: Scene, rng: np.random.RandomState, mask_tokens: Sequence[Sequence[int]]) -> Example:
    """Ask for one class; the answer has a box, mask tokens and the label for each object of that class."""
    item = scene.items[rng.randint(len(scene.items))]
    phrase = item.name if rng.randint(4) else item.shape
    items = [i for i, other in enumerate(scene.items) if phrase in (other.name, other.shape)]
    answers = [f"{box_tokens(scene.items[i])}{seg_tokens(mask_tokens[i])} {phrase}" for i in items]
    return Example("segment", f"segment {phrase}", " ; ".join(answers), tuple(items))

"""From a scene to what PaliGemma is asked about it and should answer.

Prompts are those PaliGemma is trained with (arXiv 2407.07726, section 3.2.1): `caption en`,
`answer en QUESTION`, `detect A ; B`, `segment A`. A question is asked only where it has one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from paligemma_onnx.runtime.text.special_tokens import LAST_LOCATION

from .scenes import SIDE, Item, Scene
from .vocabulary import COLOURS, HELD_OUT, SHAPES

Kind = Literal["caption", "colour", "shape", "texture", "count", "position", "text", "detect", "segment"]
QUESTIONS: tuple[Kind, ...] = ("colour", "shape", "texture", "count", "position", "text")
LOCATIONS = LAST_LOCATION + 1  # from one edge of the picture to the other
MOST_NEW_TOKENS = 160  # of an answer: five objects with masks take 5 * 23 and an end
IN_DOUBT = 20  # pixels around the middle, or from one to the other, where top and bottom are not plain to see
NOTHING = 10  # percent of detections that ask for something that is not there


@dataclass(frozen=True)
class Example:
    """One prompt and its answer."""

    kind: Kind
    prompt: str
    suffix: str
    items: tuple[int, ...] = ()  # which items of the scene the answer is about


def caption(scene: Scene) -> str:
    """Every object from left to right, then what is printed."""
    parts = [described(item) for item in scene.items]
    if scene.sign is not None:
        parts.append(printed(scene.sign))
    return _listed(parts)


def description(scene: Scene) -> str:
    """The caption with a place for each object: what the vision tower learns from at first."""
    parts = [f"{described(item)} at the {' '.join(_ninth(item))}" for item in scene.items]
    if scene.sign is not None:
        parts.append(printed(scene.sign))
    return _listed(parts)


def example(
    scene: Scene, kind: Kind, rng: np.random.RandomState, codes: Sequence[Sequence[int]] | None = None
) -> Example | None:
    """One example of a kind; None where the scene has no question of it with one answer.

    Args:
        scene: what is asked about.
        kind: of prompt.
        rng: which of the possible questions.
        codes: 16 mask codes for each item, for `segment`.
    """
    if kind == "caption":
        return Example(kind, "caption en", caption(scene), tuple(range(len(scene.items))))
    if kind == "detect":
        return _detect(scene, rng)
    if kind == "segment":
        return None if codes is None else _segment(scene, rng, codes)
    possible = _ASK[kind](scene)
    return possible[rng.randint(len(possible))] if possible else None


def location(at: float, side: int = SIDE) -> str:
    """The token of a coordinate in pixels; the far edge is the last one (arXiv 2407.07726, section 3.2.1)."""
    return f"<loc{round(at / side * LAST_LOCATION):04d}>"


def boxed(item: Item) -> str:
    """Four location tokens: top, left, bottom, right."""
    left, top, right, bottom = item.box
    return "".join(map(location, (top, left, bottom, right)))


def described(item: Item) -> str:
    """An object as captions name it."""
    words = item.name if item.texture == "plain" else f"{item.texture} {item.name}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def printed(sign: str) -> str:
    """A word or a number as captions name it."""
    return f"the {'number' if sign.isdigit() else 'word'} {sign}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _ninth(item: Item) -> tuple[str, str]:
    x, y = item.centre
    return ("top", "middle", "bottom")[int(y * 3 / SIDE)], ("left", "centre", "right")[int(x * 3 / SIDE)]


def _names(scene: Scene) -> list[str]:
    return [item.name for item in scene.items]


def _called(scene: Scene) -> list[tuple[int, str]]:
    """Items that a phrase names without doubt, each with the phrase: colour and shape, or the shape alone."""
    names, shapes = _names(scene), [item.shape for item in scene.items]
    named = [(i, name) for i, name in enumerate(names) if names.count(name) == 1]
    return named + [(i, shape) for i, shape in enumerate(shapes) if shapes.count(shape) == 1]


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
        Example("texture", f"answer en what texture is the {name}?", scene.items[i].texture, (i,))
        for i, name in _called(scene)
    ]


def _count(scene: Scene) -> list[Example]:
    def ask(what: str, found: Sequence[int]) -> Example:
        return Example("count", f"answer en how many {what} are there?", str(len(found)), tuple(found))

    everything = ask("objects", range(len(scene.items)))
    by_shape = [
        ask(plural(shape), [i for i, item in enumerate(scene.items) if item.shape == shape])
        for shape in SHAPES
    ]
    by_colour = [
        ask(f"{colour} objects", [i for i, item in enumerate(scene.items) if item.colour == colour])
        for colour in COLOURS
    ]
    there = [example for example in by_shape + by_colour if example.items]
    absent = [example for example in by_shape + by_colour if not example.items]
    # "How many objects" and those that are there are asked more often than those that are not.
    return [everything] * 4 + there * 3 + absent[:: max(1, len(absent) // 3)]


def plural(shape: str) -> str:
    """More than one of a shape."""
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _position(scene: Scene) -> list[Example]:
    places, sides = list[Example](), list[Example]()
    called, middle = _called(scene), SIDE / 2
    for i, name in called:
        x, y = scene.items[i].centre
        if abs(x - middle) > IN_DOUBT and abs(y - middle) > IN_DOUBT:
            where = f"{'top' if y < middle else 'bottom'} {'left' if x < middle else 'right'}"
            places.append(Example("position", f"answer en where is the {name}?", where, (i,)))
        for j, other in called:
            if i == j:
                continue
            other_x, other_y = scene.items[j].centre
            side = "left" if x < other_x else "right"
            ask = f"answer en is the {name} left or right of the {other}?"
            sides.append(Example("position", ask, side, (i, j)))
            if abs(y - other_y) > IN_DOUBT:
                side = "above" if y < other_y else "below"
                ask = f"answer en is the {name} above or below the {other}?"
                sides.append(Example("position", ask, side, (i, j)))
    return places * 3 + sides  # of pairs there are many more than of objects


def _text(scene: Scene) -> list[Example]:
    return [] if scene.sign is None else [Example("text", "answer en what does it say?", scene.sign)]


_ASK: dict[Kind, Callable[[Scene], list[Example]]] = {
    "colour": _colour,
    "shape": _shape,
    "texture": _texture,
    "count": _count,
    "position": _position,
    "text": _text,
}


def _detect(scene: Scene, rng: np.random.RandomState) -> Example:
    """Up to three classes, in any order, each a shape or a colour and a shape; now and then one is absent."""
    classes: list[str] = []
    for item in scene.items:
        classes += [item.name, item.shape]
    wanted = [classes[rng.randint(len(classes))] for _ in range(rng.randint(1, 4))]
    if rng.randint(100) < NOTHING:
        wanted[rng.randint(len(wanted))] = _absent(scene, rng)
    wanted = _distinct(wanted)
    found, parts = [], []
    for phrase in wanted:
        for i, item in enumerate(scene.items):
            if i not in found and phrase in (item.name, item.shape):
                found.append(i)
                parts.append(f"{boxed(item)} {phrase}")
    return Example("detect", f"detect {' ; '.join(wanted)}", " ; ".join(parts), tuple(found))


def _distinct(wanted: Sequence[str]) -> list[str]:
    """Without phrases that another one includes, so that no object is asked for twice."""
    kept: list[str] = []
    for phrase in wanted:
        if not any(phrase.endswith(other) or other.endswith(phrase) for other in kept):
            kept.append(phrase)
    return kept


def _absent(scene: Scene, rng: np.random.RandomState) -> str:
    colours, names = list(COLOURS), _names(scene)
    while True:
        colour, shape = colours[rng.randint(len(colours))], SHAPES[rng.randint(len(SHAPES))]
        if f"{colour} {shape}" not in names and (colour, shape) not in HELD_OUT:
            return f"{colour} {shape}"


def _segment(scene: Scene, rng: np.random.RandomState, codes: Sequence[Sequence[int]]) -> Example:
    """One class; where several objects are of it, each is a group of its own."""
    item = scene.items[rng.randint(len(scene.items))]
    phrase = item.name if rng.randint(4) else item.shape
    found = [i for i, other in enumerate(scene.items) if phrase in (other.name, other.shape)]
    parts = [f"{boxed(scene.items[i])}{segments(codes[i])} {phrase}" for i in found]
    return Example("segment", f"segment {phrase}", " ; ".join(parts), tuple(found))


def segments(codes: Sequence[int]) -> str:
    """16 segment tokens, row by row of the 4 x 4 grid."""
    return "".join(f"<seg{code:03d}>" for code in codes)

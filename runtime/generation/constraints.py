"""Constrained decoding: after `detect` only boxes with the labels asked for, after `segment` with masks.

    answer = nothing | object (" ; " object)*
    object = <loc> top, left, bottom, right, with area; for `segment` 16 <seg>; then a label

(arXiv 2407.07726, section 3.2.1). A form says which ids may come next; the likeliest, or a drawn one, is then
chosen among these. It also knows how many tokens each way to an end takes, and takes none that does not fit
into what is left: an answer is never cut within an object.

Legend: L location tokens, A ids that are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import SEG_TOKENS_PER_MASK
from ..errors import BundleError, OptionError
from ..text.special_tokens import LAST_LOCATION, LAST_SEGMENT
from ..text.tokenizer import PromptTokenizer

CORNERS = 4
TASKS = {"detect": 0, "segment": SEG_TOKENS_PER_MASK}  # codes that an object has


@dataclass
class Node:
    """A place in the tree of labels, each written with a separator behind it or as the last one."""

    children: dict[int, Node] = field(default_factory=dict)
    ends: bool = False  # the answer may end here
    again: bool = False  # the separator is written: the next object begins
    shortest: int = 0  # tokens to an end, at least


@dataclass(frozen=True)
class GrammarState:
    """How far an answer is within its current object."""

    begun: bool = False  # an object was written, or is being written
    corners: tuple[int, ...] = ()  # numbers of the location tokens so far
    codes: int = 0  # `<seg>` tokens so far
    label: Node | None = None  # None until all of these are written


@dataclass(frozen=True)
class AnswerGrammar:
    """What an answer may look like; shared by all steps of a row."""

    locations: NDArray[np.int64]  # int64[L], their ids from the near edge to the far one
    segments: NDArray[np.int64]  # their ids
    codes: int  # that an object has: 16, or none
    labels: Node
    stop: NDArray[np.int64]

    @property
    def object_tokens(self) -> int:
        """Tokens that the shortest object takes, to the end of an answer."""
        return CORNERS + self.codes + self.labels.shortest

    def allowed(self, place: GrammarState, left: int) -> NDArray[np.int64]:
        """Ids that may come next, int64[A] with A >= 1, where `left` more tokens fit into the answer."""
        if place.label is not None:
            fitting = [token for token, child in place.label.children.items() if child.shortest < left]
            ends = self.stop if place.label.ends else self.stop[:0]
            return np.concatenate([np.array(fitting, dtype=np.int64), ends])
        if len(place.corners) == CORNERS:
            return self.segments
        if len(place.corners) >= CORNERS // 2:  # beyond the top, or the left
            return self.locations[place.corners[len(place.corners) - 2] + 1 :]
        edges = self.locations[:-1]
        if place.begun:
            return edges
        return np.concatenate([edges, self.stop]) if self.object_tokens <= left else self.stop

    def after(self, place: GrammarState, token: int) -> GrammarState:
        """Where an answer is when an allowed token, none that stops it, has been written."""
        if place.label is not None:
            child = place.label.children[token]
            return GrammarState(begun=True) if child.again else replace(place, label=child)
        if len(place.corners) == CORNERS:
            place = replace(place, codes=place.codes + 1)
        else:
            number = int(np.flatnonzero(self.locations == token)[0])
            place = replace(place, begun=True, corners=(*place.corners, number))
        written = len(place.corners) == CORNERS and place.codes == self.codes
        return replace(place, label=self.labels) if written else place


def grammar_for_prompt(prompt: str, tokenizer: PromptTokenizer, stop: Sequence[int]) -> AnswerGrammar:
    """The form of a prompt's answer.

    Raises:
        OptionError: the prompt asks for no objects, or a label could not be read back.
        BundleError: the tokenizer has no location or segment tokens.
    """
    task, _, rest = prompt.strip().partition(" ")
    if task not in TASKS:
        raise OptionError("constrained works for prompts that begin with `detect` or `segment` and a space")
    labels = dict.fromkeys(label.strip() for label in rest.split(";"))
    for label in labels:
        if "<" in label:
            raise OptionError(f"constrained: the label {label[:40]!r} holds a `<`, which begins a token")
        if tokenizer.decode(_ids(tokenizer, f" {label}" if label else "")).strip() != label:
            raise OptionError(f"constrained: the label {label[:40]!r} is not what the vocabulary gives back")
    locations = _pieces(tokenizer, [f"<loc{number:04d}>" for number in range(LAST_LOCATION + 1)])
    segments = _pieces(tokenizer, [f"<seg{number:03d}>" for number in range(LAST_SEGMENT + 1)])
    if len(locations) < 2 or not len(segments):
        raise BundleError(f"{tokenizer.source}: has no location and segment tokens to constrain answers to")
    return AnswerGrammar(
        locations=locations,
        segments=segments,
        codes=TASKS[task],
        labels=_tree(list(labels), tokenizer, CORNERS + TASKS[task]),
        stop=np.array(stop, dtype=np.int64),
    )


def _pieces(tokenizer: PromptTokenizer, names: Sequence[str]) -> NDArray[np.int64]:
    found = (tokenizer.library.token_to_id(name) for name in names)
    return np.array([token for token in found if token is not None], dtype=np.int64)


def _tree(labels: Sequence[str], tokenizer: PromptTokenizer, before: int) -> Node:
    """All labels as ids; `before` tokens stand in front of a label."""
    root = Node()
    for label in labels:
        text = f" {label}" if label else ""
        _grow(root, _ids(tokenizer, text)).ends = True
        _grow(root, _ids(tokenizer, f"{text} ; ")).again = True
    last = min(len(_ids(tokenizer, f" {label}" if label else "")) for label in labels)
    _measure(root, before + last)
    return root


def _ids(tokenizer: PromptTokenizer, text: str) -> list[int]:
    """Ids of a text between two location tokens, where the model writes it."""
    edge = "<loc0000>"
    between: list[int] = tokenizer.library.encode(edge + text + edge, add_special_tokens=False).ids[1:-1]
    return between


def _grow(node: Node, ids: Sequence[int]) -> Node:
    for token in ids:
        node = node.children.setdefault(token, Node())
    return node


def _measure(node: Node, one_more: int) -> None:
    """Fill in `shortest`; `one_more` tokens are a whole object and an end."""
    for child in node.children.values():
        _measure(child, one_more)
    ways = [1 + child.shortest for child in node.children.values()]
    node.shortest = 0 if node.ends else one_more if node.again else min(ways)

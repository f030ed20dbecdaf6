"""Constrained decoding: an answer to `detect` or `segment` consists of objects with the requested labels.

    answer = nothing | object (" ; " object)*
    object = <loc> top, left, bottom, right, with area; for `segment` 16 <seg>; then a label

(arXiv 2407.07726, section 3.2.5). A grammar lists the ids that may come next. The decode loop then takes the
most likely of these ids, or samples one of them. The grammar also knows how many tokens each continuation
needs to reach an end. It excludes the continuations that need more tokens than are left, so an answer is
never cut within an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import SEG_TOKENS_PER_MASK
from ..errors import BundleError, OptionError
from ..text.special_tokens import LAST_SEGMENT
from ..text.tokenizer import PromptTokenizer

LOCATIONS_PER_BOX = 4  # top, left, bottom, right
MASK_TOKENS = {"detect": 0, "segment": SEG_TOKENS_PER_MASK}  # `<seg>` tokens per object, by task


@dataclass
class Node:
    """A node in the prefix tree of labels.

    The tree contains each label twice: with a separator after the label and without.
    """

    children: dict[int, Node] = field(default_factory=dict)
    ends: bool = False  # the answer may end here
    # Index of the label after which the separator is complete here; None: no separator is complete.
    starts_next_object: int | None = None
    min_tokens_to_end: int = 0


@dataclass(frozen=True)
class GrammarState:
    """Position of an answer in its current object."""

    has_objects: bool = False  # an object was written, or is being written
    last_label: int = -1  # index of the label of the object before this one; -1: there is none
    expected_label: int = 0  # index of the label that the current object is expected to have
    locations: tuple[int, ...] = ()  # numbers (0 to 1023) of the location tokens so far
    mask_tokens: int = 0  # number of `<seg>` tokens so far
    label: Node | None = None  # None until all location and mask tokens are written


@dataclass(frozen=True)
class AnswerGrammar:
    """Grammar of the answers to a prompt. It is immutable, and all decode steps of a row share it.

    Attributes:
        location_ids: int64[locations], from the top or left edge to the bottom or right edge.
        segment_ids: int64[segments].
        mask_tokens: `<seg>` tokens per object, 16 or 0.
        labels: root of the labels' prefix tree.
        label_ids: for each label its ids and those of the separator.
        stop_ids: int64[stops].
    """

    location_ids: NDArray[np.int64]
    segment_ids: NDArray[np.int64]
    mask_tokens: int
    labels: Node
    label_ids: tuple[tuple[int, ...], ...]
    stop_ids: NDArray[np.int64]

    @property
    def min_object_tokens(self) -> int:
        """Number of tokens of the shortest object."""
        return LOCATIONS_PER_BOX + self.mask_tokens + self.labels.min_tokens_to_end

    def allowed(self, state: GrammarState, tokens_left: int) -> NDArray[np.int64]:
        """Return the ids that may come next: int64[allowed], with at least one id.

        Args:
            state: position in the answer.
            tokens_left: number of tokens that still fit into the answer, at least 1.
        """
        if state.label is not None:
            fitting = [
                token_id
                for token_id, child in state.label.children.items()
                if child.min_tokens_to_end < tokens_left
            ]
            ends = self.stop_ids if state.label.ends else self.stop_ids[:0]
            return np.concatenate([np.array(fitting, dtype=np.int64), ends])
        if len(state.locations) == LOCATIONS_PER_BOX:
            return self.segment_ids
        if len(state.locations) >= LOCATIONS_PER_BOX // 2:  # bottom > top and right > left
            return self.location_ids[state.locations[len(state.locations) - 2] + 1 :]
        top_or_left = self.location_ids[:-1]
        if state.has_objects:
            return top_or_left
        if self.min_object_tokens > tokens_left:
            return self.stop_ids
        return np.concatenate([top_or_left, self.stop_ids])

    def expected_ids(self, state: GrammarState, tokens_left: int) -> list[int]:
        """Return the ids with which the answer probably continues; the model may choose others.

        If there is only one way to continue, its ids are expected. After a label, where the answer may end or
        continue with another object, the separator is expected. At the beginning of a label, the label
        `expected_label` with a separator is expected.

        Args:
            state: position in the answer.
            tokens_left: number of tokens that still fit into the answer, at least 1.
        """
        if state.label is self.labels:
            return list(self.label_ids[state.expected_label][:tokens_left])
        ids = list[int]()
        while len(ids) < tokens_left:
            allowed = self.allowed(state, tokens_left - len(ids))
            if len(allowed) > 1 + len(self.stop_ids):  # most states allow many location tokens
                break
            continuing = allowed[~np.isin(allowed, self.stop_ids)]
            if len(continuing) != 1:
                break
            ids.append(int(continuing[0]))
            state = self.advance(state, ids[-1])
        return ids

    def advance(self, state: GrammarState, token_id: int) -> GrammarState:
        """Return the state that follows `state` after `token_id`, an allowed id that is not a stop id."""
        if state.label is not None:
            child = state.label.children[token_id]
            if (label := child.starts_next_object) is None:
                return replace(state, label=child)
            # Answers usually list the objects in the order of the labels. A repeated label may come again.
            expected = label if label == state.last_label else min(label + 1, len(self.label_ids) - 1)
            return GrammarState(has_objects=True, last_label=label, expected_label=expected)
        if len(state.locations) == LOCATIONS_PER_BOX:
            state = replace(state, mask_tokens=state.mask_tokens + 1)
        else:
            number = int(np.flatnonzero(self.location_ids == token_id)[0])
            state = replace(state, has_objects=True, locations=(*state.locations, number))
        complete = len(state.locations) == LOCATIONS_PER_BOX and state.mask_tokens == self.mask_tokens
        return replace(state, label=self.labels) if complete else state


def grammar_for_prompt(prompt: str, tokenizer: PromptTokenizer, stop_ids: Sequence[int]) -> AnswerGrammar:
    """Return the grammar of a prompt's answers.

    Args:
        prompt: `detect LABEL ; LABEL` or `segment LABEL ; LABEL`.
        tokenizer: the bundle's tokenizer.
        stop_ids: ids that end an answer.

    Raises:
        OptionError: the task of the prompt is not `detect` or `segment`, or the prompt has a label that
            `parse_answer` could not read in an answer.
        BundleError: the tokenizer has no location or segment tokens.
    """
    task, _, listed = prompt.strip().partition(" ")
    if task not in MASK_TOKENS:
        raise OptionError("constrained works for prompts that begin with `detect` or `segment` and a space")
    labels = dict.fromkeys(label.strip() for label in listed.split(";"))
    for label in labels:
        if "<" in label:
            raise OptionError(f"constrained: the label {label[:40]!r} contains `<`, which begins a token")
        if tokenizer.decode(_ids(tokenizer, f" {label}" if label else "")).strip() != label:
            raise OptionError(f"constrained: the vocabulary cannot represent the label {label[:40]!r}")
    locations = np.array(tokenizer.location_ids, dtype=np.int64)
    segment_ids = _existing_ids(tokenizer, [f"<seg{number:03d}>" for number in range(LAST_SEGMENT + 1)])
    if len(locations) < 2 or not len(segment_ids):
        raise BundleError(f"{tokenizer.source}: has no location and segment tokens to constrain answers to")
    texts = [f" {label}" if label else "" for label in labels]
    label_ids = tuple(tuple(_ids(tokenizer, f"{text} ; ")) for text in texts)
    return AnswerGrammar(
        location_ids=locations,
        segment_ids=segment_ids,
        mask_tokens=MASK_TOKENS[task],
        labels=_label_tree(
            [_ids(tokenizer, text) for text in texts], label_ids, LOCATIONS_PER_BOX + MASK_TOKENS[task]
        ),
        label_ids=label_ids,
        stop_ids=np.array(stop_ids, dtype=np.int64),
    )


def _existing_ids(tokenizer: PromptTokenizer, tokens: Sequence[str]) -> NDArray[np.int64]:
    ids = (tokenizer.library.token_to_id(token) for token in tokens)
    return np.array([token_id for token_id in ids if token_id is not None], dtype=np.int64)


def _label_tree(
    at_the_end: Sequence[Sequence[int]], before_separator: Sequence[Sequence[int]], tokens_before_label: int
) -> Node:
    """Return the root of the prefix tree of the labels' ids, with `min_tokens_to_end` set in every node.

    Args:
        at_the_end: ids of each label at the end of an answer.
        before_separator: ids of each label and of the separator after it.
        tokens_before_label: number of tokens of an object before its label.
    """
    root = Node()
    for index, (label, separated) in enumerate(zip(at_the_end, before_separator, strict=True)):
        _insert(root, label).ends = True
        _insert(root, separated).starts_next_object = index
    _measure(root, tokens_before_label + min(map(len, at_the_end)))
    return root


def _ids(tokenizer: PromptTokenizer, text: str) -> list[int]:
    """Return the ids of a text. It is encoded between two location tokens, as it stands in an answer."""
    edge = "<loc0000>"
    ids: list[int] = tokenizer.library.encode(edge + text + edge, add_special_tokens=False).ids[1:-1]
    return ids


def _insert(node: Node, ids: Sequence[int]) -> Node:
    """Add a path of ids below a node; return its last node."""
    for token_id in ids:
        node = node.children.setdefault(token_id, Node())
    return node


def _measure(node: Node, min_object_tokens: int) -> None:
    """Set `min_tokens_to_end` of a node and all nodes below it."""
    for child in node.children.values():
        _measure(child, min_object_tokens)
    if node.ends:
        node.min_tokens_to_end = 0
    elif node.starts_next_object is not None:
        node.min_tokens_to_end = min_object_tokens
    else:
        node.min_tokens_to_end = min(1 + child.min_tokens_to_end for child in node.children.values())

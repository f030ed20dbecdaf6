"""Parsing of answers to `detect` and `segment`, well-formed and malformed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma_onnx.runtime.detection.parsing import Box, ParsedAnswer, ParsedObject, parse_answer

BOX = "<loc0000><loc0100><loc1023><loc0400>"
MASK_TOKENS = "".join(f"<seg{number:03d}>" for number in range(16))
HERE = Box(0.0, 100 / 1023, 1.0, 400 / 1023)


def test_objects_in_order() -> None:
    text = f"{BOX} red cat ; <loc0001><loc0002><loc0003><loc0004>{MASK_TOKENS} dog"
    first, second = parse_answer(text).objects
    assert first == ParsedObject("red cat", HERE, None)
    assert second.label == "dog"
    assert second.mask_tokens == tuple(range(16))
    assert first.box.pixels(width=1023, height=50) == pytest.approx((100, 0, 400, 50))


@pytest.mark.parametrize("text", ["", " ", ";", " ; ; "])
def test_nothing(text: str) -> None:
    assert parse_answer(text) == ParsedAnswer((), ())


@pytest.mark.parametrize(
    "group",
    [
        "a red cat",
        "<loc0000><loc0100><loc1023> three",
        f"{BOX}<loc0001> five",
        "<loc0000><loc0100><loc1024><loc0400> beyond the edge",
        "<loc0500><loc0100><loc0500><loc0400> flat",
        "<loc0000><loc0400><loc1023><loc0100> mirrored",
        f"{BOX}<seg000> one mask token",
        f"{BOX}{MASK_TOKENS}<seg000> seventeen mask tokens",
        f"{BOX}{MASK_TOKENS[:-8]}<seg128> no such mask token",
        f"cat {BOX}",
        f"{BOX} cat <loc0001>",
        "<loc00> cat",
        "<loc\u0660\u0661\u0660\u0660><loc0100><loc1023><loc0400> digits of another script",
    ],
)
def test_what_is_no_object_is_said_and_left_out(group: str) -> None:
    answer = parse_answer(f"{BOX} cat ; {group} ; {BOX} dog")
    assert [parsed.label for parsed in answer.objects] == ["cat", "dog"]
    (warning,) = answer.warnings
    assert group[:20] in warning


PIECES = st.sampled_from(
    [*("<loc0000>", "<loc0700>", "<loc1023>", "<loc9999>", "<seg000>", "<seg127>", "<seg999>")]
)


@pytest.mark.slow
@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(PIECES, st.sampled_from([" ; ", ";", " cat", BOX, MASK_TOKENS]), st.text(max_size=4)),
        max_size=30,
    )
)
def test_never_raises_and_never_invents(parts: list[str]) -> None:
    text = "".join(parts)
    answer = parse_answer(text)
    groups = [group for group in text.split(";") if group.strip()]
    assert len(answer.objects) + len(answer.warnings) == len(groups)
    for parsed in answer.objects:
        assert 0 <= parsed.box.top < parsed.box.bottom <= 1
        assert 0 <= parsed.box.left < parsed.box.right <= 1
        mask_tokens = parsed.mask_tokens
        assert mask_tokens is None or (len(mask_tokens) == 16 and max(mask_tokens) < 128)
        assert parsed.label in text

"""Answers of `detect` and `segment` read back, whatever was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma_onnx.runtime.detection.parsing import Box, ParsedAnswer, ParsedObject, parse_answer

BOX = "<loc0000><loc0100><loc1023><loc0400>"
CODES = "".join(f"<seg{code:03d}>" for code in range(16))
HERE = Box(0.0, 100 / 1023, 1.0, 400 / 1023)


def test_objects_in_order() -> None:
    text = f"{BOX} red cat ; <loc0001><loc0002><loc0003><loc0004>{CODES} dog"
    first, second = parse_answer(text).found
    assert first == ParsedObject("red cat", HERE, None)
    assert second.label == "dog"
    assert second.codes == tuple(range(16))
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
        f"{BOX}<seg000> one code",
        f"{BOX}{CODES}<seg000> seventeen codes",
        f"{BOX}{CODES[:-8]}<seg128> no such code",
        f"cat {BOX}",
        f"{BOX} cat <loc0001>",
        "<loc00> cat",
        "<loc\u0660\u0661\u0660\u0660><loc0100><loc1023><loc0400> digits of another script",
    ],
)
def test_what_is_no_object_is_said_and_left_out(group: str) -> None:
    read = parse_answer(f"{BOX} cat ; {group} ; {BOX} dog")
    assert [one.label for one in read.found] == ["cat", "dog"]
    (warning,) = read.warnings
    assert group[:20] in warning


PIECES = st.sampled_from(
    [*("<loc0000>", "<loc0700>", "<loc1023>", "<loc9999>", "<seg000>", "<seg127>", "<seg999>")]
)


@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(PIECES, st.sampled_from([" ; ", ";", " cat", BOX, CODES]), st.text(max_size=4)), max_size=30
    )
)
def test_never_raises_and_never_invents(parts: list[str]) -> None:
    text = "".join(parts)
    read = parse_answer(text)
    groups = [group for group in text.split(";") if group.strip()]
    assert len(read.found) + len(read.warnings) == len(groups)
    for one in read.found:
        assert 0 <= one.box.top < one.box.bottom <= 1
        assert 0 <= one.box.left < one.box.right <= 1
        assert one.codes is None or (len(one.codes) == 16 and max(one.codes) < 128)
        assert one.label in text

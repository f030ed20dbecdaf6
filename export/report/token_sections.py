"""Of the validation report: what each side says, step by step and when it follows its own choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from statistics import fmean

from ..validation.measures import TOP, Comparison, TokenAgreement
from .chart_scales import LinearScale, log_scale
from .charts import SHAPES, Point, Series, legend, plot
from .error_sections import number, verdict
from .findings import Answer, ReportData
from .grouping import step_of
from .html_markup import Markup, joined, table, tag

COLOURS = 4  # of the style sheet
LONGEST_PROMPT = 40  # characters in a legend


def steps(comparison: Comparison, answers: Sequence[Answer]) -> Markup:
    """First words, first ten words and divergence, by step; both sides read the same words before."""
    rows: dict[int, list[TokenAgreement]] = {}
    for one in comparison.agreements:
        rows.setdefault(one.row, []).append(one)
    if not rows:
        return Markup("")
    names = {answer.row: f"row {answer.row}: {_short(answer.prompt)}" for answer in answers}
    last = max(step_of(one.stage) for one in comparison.agreements)
    x, exact = LinearScale(0, last), comparison.exact
    divergences = [_series(names[row], row, group, "divergence", exact=exact) for row, group in rows.items()]
    shared = [_series(names[row], row, group, "top10", exact=exact) for row, group in rows.items()]
    scale = log_scale([max(one.divergence, 0.0) for one in comparison.agreements])
    cells = [_summary(names[row], group, exact=exact) for row, group in rows.items()]
    columns = ("row", "first word agrees", "of the first ten, shared", "divergence, mean", "at most")
    return tag(
        "section",
        tag("h2", "Words, step by step"),
        tag(
            "p",
            "Both sides read the reference's words and say which comes next; step 0 is the first word of the "
            "answer. Divergence is Kullback and Leibler's, of the bundle's distribution from the "
            "reference's, in nats.",
        ),
        legend(divergences, "another first word" + (", and no near tie" if exact else "")),
        tag(
            "div",
            plot("Divergence by step", "step", "nats, log scale", divergences, x, scale, ()),
            plot(f"Words shared of the first {TOP}", "step", "words", shared, x, LinearScale(0, TOP), ()),
            class_="charts",
        ),
        table("Agreement by row", columns, cells),
    )


def paths(findings: ReportData) -> Markup:
    """Where greedy answers part, how close the choice was, and what both sides say."""
    exact = findings.validation.comparison.exact
    parted = [_parted(answer, exact=exact) for answer in findings.answers]
    texts = [_texts(answer) for answer in findings.answers]
    columns = ("row", "parts at step", "the reference says", "the bundle says", "margin in logits", "so")
    return tag(
        "section",
        tag("h2", "Greedy answers"),
        tag(
            "p",
            f"Each side follows its own choices for {findings.validation.steps} steps. The margin is how far "
            "the reference's logit of its own word is above that of the bundle's word.",
        ),
        table("Where the two part", columns, parted),
        table("What they say, up to the first stop token", ("prompt", "the reference", "the bundle"), texts),
    )


def _series(name: str, row: int, group: Sequence[TokenAgreement], field: str, *, exact: bool) -> Series:
    points = tuple(
        Point(
            step_of(one.stage),
            max(float(getattr(one, field)), 0.0),
            f"{name}, step {step_of(one.stage)}: {one.divergence:.2e} nats, {one.top10} of {TOP} shared, "
            + ("same first word" if one.top1 else "another first word"),
            failed=not (one.passed if exact else one.top1),
        )
        for one in group
    )
    turn, filled = row // len(SHAPES), (row + row // len(SHAPES)) % 2 == 0  # so that eight rows differ
    return Series(name, list(SHAPES)[row % len(SHAPES)], (row + turn) % COLOURS, filled, points)


def _summary(name: str, group: Sequence[TokenAgreement], *, exact: bool) -> tuple[str, ...]:
    same, ties = sum(one.top1 for one in group), sum(one.near_tie and not one.top1 for one in group)
    divergences = [one.divergence for one in group]
    near = f", {ties} near ties" if exact and ties else ""
    return (
        name,
        f"{same} of {len(group)} ({same / len(group):.1%}){near}",
        f"{fmean(one.top10 for one in group):.1f} in the mean, {min(one.top10 for one in group)} at least",
        number(fmean(divergences)),
        number(max(divergences) if all(map(math.isfinite, divergences)) else math.nan),
    )


def _parted(answer: Answer, *, exact: bool) -> tuple[str, ...]:
    parting = answer.parting
    if parting is None:
        return (f"row {answer.row}", "never", "–", "–", "–", verdict(True))
    tie = "a near tie" if parting.near_tie else "no near tie"
    words = [tag("code", repr(word.text), class_="text") for word in (parting.reference, parting.bundle)]
    behind = " (behind the end of the answer)" if parting.behind_the_answer else ""
    so = joined(f"{tie}: ", verdict(parting.near_tie)) if exact else "reported, not judged"
    margin = f"{parting.margin:.3g}" if math.isfinite(parting.margin) else "not finite"
    return (f"row {answer.row}", f"{parting.step}{behind}", *words, margin, so)


def _texts(answer: Answer) -> tuple[str, ...]:
    """Both texts; where they part, what follows is underlined."""
    sides = (answer.reference, answer.bundle)
    letters = zip(*(side.text for side in sides), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters))
    shown = [
        joined(
            tag("span", side.text[:same], class_="text"),
            tag("mark", side.text[same:], class_="text") if side.text[same:] else "",
            "" if side.ended else " …",
        )
        for side in sides
    ]
    return (answer.prompt, *shown)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_PROMPT else f"{line[: LONGEST_PROMPT - 1]}…"

"""Charts and table of the report about next tokens, step by step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..validation.measures import TOP, Comparison, TokenAgreement
from .chart_scales import LinearScale, log_scale
from .charts import SHAPES, Chart, Point, Series, plot
from .grouping import step_of
from .report_data import Answer

COLOURS = 4  # in report.css
MAX_PROMPT_CHARS = 40  # in a legend; longer prompts are cut


@dataclass(frozen=True)
class RowAgreement:
    """Row of the table: agreement over all steps of one prompt."""

    name: str
    steps: int
    same_top1: int  # steps with the same most likely token
    near_ties: int  # of the other steps
    mean_shared: float  # tokens among the TOP most likely of both sides
    min_shared: int
    mean_divergence: float  # nats
    max_divergence: float


@dataclass(frozen=True)
class Tokens:
    """Content of the section."""

    series: Sequence[Series]
    charts: Sequence[Chart]
    rows: Sequence[RowAgreement]
    top: int = TOP


def summarize_tokens(comparison: Comparison, answers: Sequence[Answer]) -> Tokens:
    """Prepare the section about next tokens, for which both sides read the reference's tokens."""
    exact = comparison.exact
    names = {answer.row: f"row {answer.row}: {_shorten(answer.prompt)}" for answer in answers}
    rows: dict[str, list[TokenAgreement]] = defaultdict(list)
    for agreement in comparison.agreements:
        rows[names[agreement.row]].append(agreement)
    steps = LinearScale(0, max(step_of(agreement.stage) for agreement in comparison.agreements))
    divergences, shared = (
        [_series(name, group, field, exact=exact) for name, group in rows.items()]
        for field in ("divergence", "top10")
    )
    nats = log_scale(point.y for series in divergences for point in series.points)
    return Tokens(
        series=divergences,
        charts=[
            plot("Divergence by step", "step", "nats, log scale", divergences, steps, nats),
            plot(f"Tokens shared by both top {TOP}", "step", "tokens", shared, steps, LinearScale(0, TOP)),
        ],
        rows=[_row_agreement(name, group) for name, group in rows.items()],
    )


def _series(name: str, group: Sequence[TokenAgreement], field: str, *, exact: bool) -> Series:
    row = group[0].row
    points = tuple(
        Point(
            step_of(agreement.stage),
            max(float(getattr(agreement, field)), 0.0),
            f"{name}, step {step_of(agreement.stage)}: {agreement.divergence:.2e} nats, "
            f"{agreement.top10} of {TOP} shared, "
            + ("same top-1 token" if agreement.top1 else "another top-1 token"),
            failed=not (agreement.passed if exact else agreement.top1),
        )
        for agreement in group
    )
    # Shape, colour and filling change at different rates, so that eight rows differ.
    cycle = row // len(SHAPES)
    colour, filled = (row + cycle) % COLOURS, (row + cycle) % 2 == 0
    return Series(name, list(SHAPES)[row % len(SHAPES)], colour, filled, points)


def _row_agreement(name: str, group: Sequence[TokenAgreement]) -> RowAgreement:
    divergences = [agreement.divergence for agreement in group]
    return RowAgreement(
        name,
        steps=len(group),
        same_top1=sum(agreement.top1 for agreement in group),
        near_ties=sum(agreement.near_tie and not agreement.top1 for agreement in group),
        mean_shared=fmean(agreement.top10 for agreement in group),
        min_shared=min(agreement.top10 for agreement in group),
        mean_divergence=fmean(divergences),
        max_divergence=max(divergences) if all(map(math.isfinite, divergences)) else math.nan,
    )


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_PROMPT_CHARS else f"{line[: MAX_PROMPT_CHARS - 1]}…"

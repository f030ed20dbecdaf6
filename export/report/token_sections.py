"""Charts and table of the report about the next token of each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..validation.measures import TOP, Comparison, TokenAgreement
from .chart_scales import LinearScale, log_scale
from .charts import SHAPES, Chart, Mark, Series, plot, shorten
from .grouping import step_of
from .report_data import Answer

COLOURS = 4  # number of colours in report.css
MAX_PROMPT_CHARS = 40  # length of a prompt in a legend; longer prompts are cut


@dataclass(frozen=True)
class Tokens:
    """Content of the section about next tokens."""

    charts: Sequence[Chart]
    rows: Mapping[str, Sequence[TokenAgreement]]  # agreements of all steps, by the name of the row
    top: int = TOP


def summarize_tokens(comparison: Comparison, answers: Sequence[Answer]) -> Tokens:
    """Return the content of the section about next tokens.

    In this section the reference and the bundle both get the reference's tokens as inputs.
    """
    names = [
        f"row {answer.row}: {shorten(' '.join(answer.prompt.split()), MAX_PROMPT_CHARS)}"
        for answer in answers
    ]
    rows: dict[str, list[TokenAgreement]] = defaultdict(list)
    for agreement in comparison.agreements:
        rows[names[agreement.row]].append(agreement)
    steps = LinearScale(max(step_of(agreement.stage) for agreement in comparison.agreements))
    divergences, shared = (
        [_marks(name, group, field, exact=comparison.exact) for name, group in rows.items()]
        for field in ("divergence", "top10")
    )
    nats = log_scale(mark.y for marks in divergences for mark in marks)
    top = f"Tokens shared by both top {TOP}"
    return Tokens(
        charts=[
            plot("Divergence by step", "step", "nats, log scale", divergences, steps, nats, {}),
            plot(top, "step", "tokens", shared, steps, LinearScale(TOP), {}),
        ],
        rows=rows,
    )


def _marks(name: str, group: Sequence[TokenAgreement], field: str, *, exact: bool) -> list[Mark]:
    # Shape, colour and filling change at different rates, so that the series of eight rows differ.
    row = group[0].row
    cycle = row // len(SHAPES)
    shape, colour = list(SHAPES.values())[row % len(SHAPES)], (row + cycle) % COLOURS
    series = Series(name, shape, colour, filled=(row + cycle) % 2 == 0)
    return [
        Mark(
            series,
            step_of(agreement.stage),
            max(float(getattr(agreement, field)), 0.0),
            f"{name}, step {step_of(agreement.stage)}: {agreement.divergence:.2e} nats, "
            f"{agreement.top10} of {TOP} shared, "
            + ("same top-1 token" if agreement.top1 else "another top-1 token"),
            failed=not (agreement.passed if exact else agreement.top1),
        )
        for agreement in group
    ]

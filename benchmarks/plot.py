"""The figures as a picture, for those who have matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from .metrics import step_at_past
from .report import Bounds
from .results import Result

ADVICE = "--plot needs matplotlib: run `pip install '.[plot]'` in the clone"
BARS = {"first token, s": "time_to_first_token_s", "s a token": "step_s_1"}


def is_installed() -> bool:
    """Whether a plot can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(file: Path, results: Mapping[str, Result], pasts: Sequence[int], limit: Bounds | None) -> None:
    """Three panels: first token, a token with its floor, a step by the length of the cache."""
    from matplotlib.figure import Figure  # noqa: PLC0415  optional

    figure = Figure(figsize=(13, 4), layout="constrained")
    *bars, line = figure.subplots(1, 3)
    shown = [result for result in results.values() if result.rounds]
    names = [result.name for result in shown]
    for axes, (title, key) in zip(bars, BARS.items(), strict=True):
        axes.barh(names, [result.typical(key) or 0.0 for result in shown], color="tab:blue")
        axes.set_title(title)
        axes.invert_yaxis()
    if limit is not None:
        floors = [limit.decode_s(result) or 0.0 for result in shown]
        bars[1].barh(names, floors, color="tab:orange", height=0.3, label="reading the weights once")
        bars[1].legend()
    for result in shown:
        found = [(slots, result.typical(step_at_past(slots))) for slots in pasts]
        known = [(slots, seconds) for slots, seconds in found if seconds is not None]
        if known:
            line.plot(*zip(*known, strict=True), marker="o", label=result.name)
            line.legend()
    line.set_title("s a step, by slots of cache")
    line.set_ylim(bottom=0)
    figure.savefig(file, dpi=150)

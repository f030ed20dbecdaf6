"""Draw the figures of a run of `benchmarks.real_size`; needs matplotlib (`pip install '.[plot]'`).

python -m benchmarks.plot FIGURES.json IMAGE.png
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from .metrics import step_at_batch, step_at_past
from .report import Bounds, read_figures
from .results import Result

ADVICE = "matplotlib is not installed; run `pip install '.[plot]'` in the clone of the repository"
BARS = {"time to first token, s": "time_to_first_token_s", "s/token at batch 1": step_at_batch(1)}


def is_installed() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(file: Path, results: Mapping[str, Result], pasts: Sequence[int], limit: Bounds | None) -> None:
    """Draw a chart file with three plots.

    The plots are the time to the first token, the time per token with its lower bound, and the time per token
    by the number of cached tokens.

    Args:
        file: image file to write.
        results: results of the systems by name.
        pasts: numbers of cached tokens.
        limit: lower bounds; None if they were not measured.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  matplotlib is an optional dependency

    figure = Figure(figsize=(13, 4), layout="constrained")
    *bars, lines = figure.subplots(1, 3)
    measured = [result for result in results.values() if result.rounds]
    names = [result.name for result in measured]
    for axes, (title, metric) in zip(bars, BARS.items(), strict=True):
        axes.barh(names, [result.median(metric) or 0.0 for result in measured], color="tab:blue")
        axes.set_title(title)
        axes.invert_yaxis()
    if limit is not None:
        bound = [limit.decode_s(result) or 0.0 for result in measured]
        bars[1].barh(names, bound, color="tab:orange", height=0.3, label="reading the weights once")
        bars[1].legend()
    for result in measured:
        points = [(past, result.median(step_at_past(past))) for past in pasts]
        known = [(past, seconds) for past, seconds in points if seconds is not None]
        if known:
            lines.plot(*zip(*known, strict=True), marker="o", label=result.name)
            lines.legend()
    lines.set_title("s/token by cached tokens")
    lines.set_ylim(bottom=0)
    figure.savefig(file, dpi=150)


@click.command()
@click.argument("figures", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("image", type=click.Path(path_type=Path))
def main(figures: Path, image: Path) -> None:
    """Draw the file IMAGE from FIGURES, a JSON file that `benchmarks.real_size` wrote."""
    if not is_installed():
        raise click.UsageError(ADVICE)
    draw(image, *read_figures(figures))


if __name__ == "__main__":
    main()

"""Measure what log-probabilities add to the time of a token.

python -m benchmarks.token_scores --work DIR [BUNDLE ...]

Measures the included model, a small model of random weights with PaliGemma's vocabulary of 257,216, and any
bundles that are named. A decode step and the score of a row of logits alternate, so that load on the machine
and the state of its caches affect both alike.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.model import presets
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.generation.logits import near_locations, score_token

from .checkpoint import make_checkpoint
from .decode_steps import start_decoding
from .machine import describe
from .sizes import BenchmarkModel

STEPS = 100  # decode steps, each followed by a score
PAST = 100  # tokens in the cache before the first step


@dataclass(frozen=True)
class Cost:
    """Seconds; medians over the steps."""

    name: str
    vocab_size: int
    step_s: float  # decode step of one sequence
    score_s: float  # score of its logits

    @property
    def share(self) -> float:
        """Time of a score as a fraction of a decode step's time."""
        return self.score_s / self.step_s


class _Silent:
    """Receives the progress of an export and prints nothing."""

    def stage(self, text: str) -> None: ...

    def set_total(self, size: int) -> None: ...

    def advance(self, size: int) -> None: ...

    def warn(self, text: str) -> None: ...


def wide_model() -> BenchmarkModel:
    """Return a model of four layers with the published vocabulary: its steps are faster than those of 3B."""
    config = presets.tiny_gemma()
    text = replace(
        config.text_config,
        vocab_size=presets.VOCABULARY,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=4,
        head_dim=128,
        query_pre_attn_scalar=128.0,
    )
    return BenchmarkModel(
        "vocabulary-257216", replace(config, text_config=text, image_token_index=presets.IMAGE_TOKEN)
    )


def bundles(work: Path, named: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the bundles to measure; those that do not exist in `work` are exported."""
    included, wide = work / "included", work / "vocabulary-257216-fp32"
    if not included.exists():
        with shipped_model() as checkpoint:
            export(ExportRequest(checkpoint, included), _Silent(), None)
    yield included
    if not wide.exists():
        export(ExportRequest(make_checkpoint(work, wide_model()), wide), _Silent(), None)
    yield wide
    yield from named


def measure(folder: Path) -> Cost:
    """Return the cost of scores for a bundle."""
    model = PaliGemma.load(folder)
    vocab_size, locations = model.manifest.model.vocab_size, model.tokenizer.location_ids
    near = near_locations(locations)
    logits = (4 * np.random.default_rng(0).standard_normal(vocab_size)).astype(np.float32)
    step = start_decoding(model, model.runner, rows=1, past=PAST, steps=STEPS)
    steps, scores = [], []
    for _ in range(STEPS):
        started = time.perf_counter()
        step()
        stepped = time.perf_counter()
        score_token(logits, locations[0], near)
        scores.append(time.perf_counter() - stepped)
        steps.append(stepped - started)
    return Cost(folder.name, vocab_size, statistics.median(steps), statistics.median(scores))


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for bundles; reused.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to a file."
)
@click.argument("named", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(work: Path, json_file: Path | None, named: tuple[Path, ...]) -> None:
    """Measure what log-probabilities add to the time of a token."""
    work.mkdir(parents=True, exist_ok=True)
    costs = [measure(folder) for folder in bundles(work, named)]
    click.echo("| bundle | vocabulary | decode step, ms | score, ms | share |")
    click.echo("|---|---|---|---|---|")
    for cost in costs:
        click.echo(
            f"| {cost.name} | {cost.vocab_size:,} | {1e3 * cost.step_s:.2f} | {1e3 * cost.score_s:.3f} | "
            f"{cost.share:.1%} |"
        )
    if json_file is not None:
        document = {
            "machine": describe(),
            "costs": [asdict(cost) for cost in costs],
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

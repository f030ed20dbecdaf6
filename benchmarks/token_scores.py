"""Measure what log-probabilities add to the time of a token.

python -m benchmarks.token_scores --work DIR [BUNDLE ...]

Measures the included model, a small model of random weights with PaliGemma's vocabulary of 257,216 in fp32
and int4, and any bundles that are named. As in the generation loop, each decode step is followed by the
choice of a token and then by its score, so that load on the machine and the state of its caches affect both
alike. Scores of several tokens may be computed together, so the time of a score is the mean over the tokens
of an answer; for each token the median over the answers counts.
"""

from __future__ import annotations

import json
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
from paligemma_onnx.runtime.generation.logits import TokenScores, near_locations
from paligemma_onnx.runtime.generation.sampling import SamplingOptions, rng_for, sample

from .checkpoint import make_checkpoint
from .decode_steps import start_decoding
from .machine import describe
from .sizes import BenchmarkModel

ANSWERS = 15
TOKENS = (
    12  # tokens of an answer: two objects with four edges and a label of one token, and what separates them
)
PAST = 100  # tokens in the cache before the first step


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    name: str
    vocab_size: int
    step_s: float  # decode step of one sequence: median over all steps
    score_s: float  # score of a token: mean over the tokens of an answer

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
    included = work / "included"
    if not included.exists():
        with shipped_model() as checkpoint:
            export(ExportRequest(checkpoint, included), _Silent(), None)
    yield included
    for precision in ("fp32", "int4"):
        wide = work / f"vocabulary-257216-{precision}"
        if not wide.exists():
            export(ExportRequest(make_checkpoint(work, wide_model()), wide, precision), _Silent(), None)
        yield wide
    yield from named


def measure(folder: Path) -> Cost:
    """Return the cost of scores for a bundle."""
    model = PaliGemma.load(folder)
    vocab_size, locations = model.manifest.model.vocab_size, model.tokenizer.location_ids
    near = near_locations(locations)
    logits = (4 * np.random.default_rng(0).standard_normal((TOKENS, vocab_size))).astype(np.float32)
    greedy, rng, suppressed = SamplingOptions(), rng_for(0, 0), np.array(model.manifest.tokens.suppressed)
    steps, scores = np.empty((2, ANSWERS, TOKENS))
    for answer in range(ANSWERS):
        step = start_decoding(model, model.runner, rows=1, past=PAST, steps=TOKENS)
        token_scores = TokenScores(near)
        for token, row in enumerate(logits):
            started = time.perf_counter()
            step()
            steps[answer, token] = time.perf_counter() - started
            sample(row, greedy, rng, suppressed)
            started = time.perf_counter()
            token_scores.add(row, locations[0], is_last=token == TOKENS - 1)
            scores[answer, token] = time.perf_counter() - started
    return Cost(folder.name, vocab_size, float(np.median(steps)), float(np.median(scores, axis=0).mean()))


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

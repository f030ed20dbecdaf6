"""Measure how much faster constrained `detect` is when a decode step adds several tokens.

    python -m benchmarks.forced_tokens BUNDLE ... [--answers 500] [--batch 1,8] [--json FILE]

Each prompt asks for three labels in a generated scene. It is answered twice: by the bundle as it is, and with
a manifest that declares one token per decode step. The two take turns, so that load on the machine affects
both alike. Both answers must have the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click
import numpy as np
from PIL import Image

from paligemma_onnx.runtime import Generation, PaliGemma, Request
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.graphs.model_runner import ModelRunner
from training.scenes import render_scene
from training.vocabulary import COLOURS, SHAPES

from .options import parse_numbers, write_json

FIRST_SCENE = 13_000_000  # seed; training uses other scenes
LABELS = 3


@dataclass(frozen=True)
class Comparison:
    """Answers of a bundle, with several tokens and with one token per decode step.

    Seconds are medians over the batches, per answer. A ratio is the median over the batches of the time with
    single tokens divided by the time with several tokens.
    """

    bundle: str
    precision: str
    batch: int
    answers: int
    equal: int  # answers with equal ids and finish reasons
    largest_logprob_difference: float
    tokens: float  # mean of an answer, without the stop id
    seconds: float
    single_seconds: float
    ratio: float
    decode_seconds: float  # decode steps only
    single_decode_seconds: float
    decode_ratio: float


def single_tokens(manifest: Manifest) -> Manifest:
    """Return the manifest with a decode graph that takes one token per step, as earlier exports have it."""
    decode = manifest.graphs.decode
    input_ids, *others = decode.inputs
    input_ids = replace(input_ids, shape=(input_ids.shape[0], 1))
    graphs = replace(manifest.graphs, decode=replace(decode, inputs=(input_ids, *others)))
    return replace(manifest, graphs=graphs)


class _WithManifest:
    """A runner with another manifest."""

    def __init__(self, runner: ModelRunner, manifest: Manifest) -> None:
        self._runner, self.manifest = runner, manifest

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)


def single_token_model(model: PaliGemma) -> PaliGemma:
    """Return a model that runs the same graphs with one token per decode step."""
    single = copy(model)
    single.manifest = single_tokens(model.manifest)
    single.runner = _WithManifest(model.runner, single.manifest)  # type: ignore[assignment]
    return single


def scene_requests(count: int) -> Iterator[Request]:
    """Yield requests that ask generated scenes for three labels, first those of the scene's objects."""
    for seed in range(FIRST_SCENE, FIRST_SCENE + count):
        rendered, rng = render_scene(seed), np.random.default_rng(seed)
        others = (f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}" for _ in range(10 * LABELS))
        labels = list(dict.fromkeys([*(item.name for item in rendered.scene.items), *others]))[:LABELS]
        yield Request(Image.fromarray(rendered.pixels), f"detect {' ; '.join(rng.permutation(labels))}")


def compare(folder: Path, model: PaliGemma, answers: int, batch: int, max_new_tokens: int) -> Comparison:
    """Answer the requests with both models, and compare ids and times."""
    models = [model, single_token_model(model)]
    requests = list(scene_requests(answers))
    seconds, decode_seconds, pairs = list[list[float]](), list[list[float]](), list[Sequence[Generation]]()
    for start in range(0, answers, batch):
        rows = requests[start : start + batch]
        times, decode_times, results = [0.0, 0.0], [0.0, 0.0], [list[Generation](), list[Generation]()]
        for index in (0, 1) if start // batch % 2 == 0 else (1, 0):
            started = time.perf_counter()
            results[index] = models[index].generate_batch(
                rows, constrained=True, logprobs=True, max_new_tokens=max_new_tokens
            )
            times[index] = (time.perf_counter() - started) / len(rows)
            decode_times[index] = results[index][0].timings.decode_s / len(rows)
        seconds.append(times)
        decode_seconds.append(decode_times)
        pairs += zip(*results, strict=True)
    return Comparison(
        bundle=folder.name,
        precision=model.manifest.precision.name,
        batch=batch,
        answers=answers,
        equal=sum((a.token_ids, a.finish_reason) == (b.token_ids, b.finish_reason) for a, b in pairs),
        largest_logprob_difference=max(map(_logprob_difference, pairs)),
        tokens=float(np.mean([len(a.token_ids) for a, _ in pairs])),
        seconds=median(each[0] for each in seconds),
        single_seconds=median(each[1] for each in seconds),
        ratio=median(single / several for several, single in seconds),
        decode_seconds=median(each[0] for each in decode_seconds),
        single_decode_seconds=median(each[1] for each in decode_seconds),
        decode_ratio=_ratio(decode_seconds),
    )


def _ratio(seconds: Sequence[Sequence[float]]) -> float:
    """Return the median of single divided by several; batches without a decode step do not count."""
    return median([single / several for several, single in seconds if several and single] or [1.0])


def _logprob_difference(pair: Sequence[Generation]) -> float:
    """Return the largest difference of the log-probabilities of two answers up to their first other id."""
    first, second = (zip(answer.token_ids, answer.logprobs or (), strict=True) for answer in pair)
    largest = 0.0
    for (id_, logprob), (other_id, other) in zip(first, second, strict=False):
        if id_ != other_id:
            break
        largest = max(largest, abs(logprob - other))
    return largest


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--answers", type=click.IntRange(1), default=500, help="Answers per bundle and batch size.")
@click.option("--batch", "batches", callback=parse_numbers, default="1,8", help="Batch sizes.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=64, help="Tokens of an answer, at most.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
def main(
    bundles: tuple[Path, ...],
    answers: int,
    batches: tuple[int, ...],
    max_new_tokens: int,
    json_file: Path | None,
) -> None:
    """Print a line per bundle and batch size."""
    started, results = time.perf_counter(), list[Comparison]()
    click.echo("| bundle | batch | equal answers | s per answer | with single tokens | ratio | of decoding |")
    click.echo("|---|---|---|---|---|---|---|")
    for folder in bundles:
        model = PaliGemma.load(folder, device="cpu")
        for batch in batches:
            result = compare(folder, model, answers, batch, max_new_tokens)
            results.append(result)
            click.echo(
                f"| {result.bundle} | {batch} | {result.equal} of {answers} | {result.seconds:.4f} | "
                f"{result.single_seconds:.4f} | {result.ratio:.2f} | {result.decode_ratio:.2f} |"
            )
            if json_file is not None:
                plan = {"answers": answers, "batches": batches, "max_new_tokens": max_new_tokens}
                write_json(json_file, plan, started, {"results": [asdict(each) for each in results]})


if __name__ == "__main__":
    main()

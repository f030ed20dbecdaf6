"""`bench`: how fast a bundle is on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from statistics import median

import click

from ..console import echo_stderr
from ..diagnostics.benchmark import Benchmark, Cost, images_for, peak_bytes
from ..paligemma import PaliGemma
from .completion import complete_folders
from .options import DEVICE, GPU_MEMORY, THREADS

MOST_PICTURES = 256  # of a batch: as many differ in their lowest bits
PROMPT = "caption en"


@dataclass(frozen=True)
class Figures:
    """What a bundle costs here; seconds are medians of the rounds."""

    bundle_id: str
    precision: str
    device: str
    threads: int
    rounds: int
    tokens: int  # of each answer
    load_s: float
    vision_s: float  # one picture
    prefill_s: float  # this and what follows: a request of one picture
    time_to_first_token_s: float
    token_s: float
    tokens_per_second: float
    own_share: float  # of token_s, outside the engine
    images_per_minute: dict[int, float]  # by the pictures of a request
    peak_bytes: int | None  # most memory resident, mapped weights included; None where nobody counts


def batch_sizes(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Pictures of a request, one or several numbers between commas: `1,4` as (1, 4)."""
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,4") from None
    if not all(1 <= size <= MOST_PICTURES for size in sizes):
        raise click.BadParameter(f"{text!r} is not in the range 1 to {MOST_PICTURES}")
    return sizes


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=complete_folders)
@click.option("--image", type=click.Path(), help="Image file to ask about.  [default: a drawn one]")
@click.option("--tokens", type=click.IntRange(2, 4096), default=20, help="Tokens of each answer.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, help="Requests; medians are reported.")
@DEVICE
@THREADS
@GPU_MEMORY
@click.option("--batches", default="1,4", callback=batch_sizes, help="Pictures of a request.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def bench(
    bundle: Path,
    image: str | None,
    tokens: int,
    rounds: int,
    device: str,
    threads: int | None,
    gpu_memory: int | None,
    batches: tuple[int, ...],
    json: bool,
) -> None:
    """Measure BUNDLE on this machine: loading, each stage, each token, pictures a minute, memory.

    Every answer has as many tokens as --tokens says, whatever the model would say. One request that is not
    counted comes first.
    """
    pictures = images_for(image, max(batches))
    model = PaliGemma.load(bundle, device=device, threads=threads, memory_limit=gpu_memory)
    benchmark = Benchmark(model)
    benchmark.ask(pictures[:1], PROMPT, tokens)
    costs: dict[int, list[Cost]] = {size: [] for size in dict.fromkeys((1, *batches))}
    for number in range(rounds):
        echo_stderr(f"round {number + 1} of {rounds}")
        for size, found in costs.items():
            found.append(benchmark.ask(pictures[:size], PROMPT, tokens))
    figures = figures_of(model, costs, batches)
    click.echo(dumps(asdict(figures)) if json else table(bundle, figures))


def figures_of(model: PaliGemma, costs: dict[int, list[Cost]], batches: tuple[int, ...]) -> Figures:
    """Medians of the rounds; `costs` holds them by the pictures of a request, 1 among them."""
    alone = costs[1]

    def typical(name: str) -> float:
        return float(median(getattr(cost, name) for cost in alone))

    return Figures(
        bundle_id=model.manifest.bundle_id,
        precision=model.manifest.precision.name,
        device=model.device,
        threads=model.runner.placement.threads,
        rounds=len(alone),
        tokens=alone[0].tokens,
        load_s=model.load_s,
        vision_s=typical("vision_s"),
        prefill_s=typical("prefill_s"),
        time_to_first_token_s=typical("time_to_first_token_s"),
        token_s=typical("token_s"),
        tokens_per_second=typical("tokens_per_second"),
        own_share=typical("own_share"),
        images_per_minute={size: median(cost.images_per_minute for cost in costs[size]) for size in batches},
        peak_bytes=peak_bytes(),
    )


def table(bundle: Path, figures: Figures) -> str:
    """For a person."""
    throughput = ", ".join(f"{rate:.1f} at batch {size}" for size, rate in figures.images_per_minute.items())
    peak = "unknown" if figures.peak_bytes is None else f"{figures.peak_bytes / 1e9:.2f} GB resident"
    lines = [
        f"{bundle}: {figures.precision}, {figures.device}, {figures.threads} threads, "
        f"{figures.tokens} tokens an answer, medians of {figures.rounds} rounds",
        f"load              {figures.load_s:.3f} s",
        f"vision            {figures.vision_s:.3f} s a picture",
        f"prefill           {figures.prefill_s:.3f} s",
        f"first token       {figures.time_to_first_token_s:.3f} s",
        f"decode            {figures.token_s:.4f} s a token, {figures.tokens_per_second:.1f} tokens/s",
        f"driver's own      {figures.own_share:.1%} of a token's time",
        f"images a minute   {throughput}",
        f"peak memory       {peak}",
    ]
    return "\n".join(lines)

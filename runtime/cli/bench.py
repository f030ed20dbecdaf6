"""The `bench` command: measure the speed and memory of a bundle on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from statistics import median

import click

from ..console import echo, echo_stderr, printable
from ..diagnostics.benchmark import Benchmark, Cost, images_for, peak_bytes
from ..paligemma import PaliGemma
from .options import ENGINE, DeviceOptions, device_options
from .parameters import BUNDLE, JSON

MAX_IMAGES = 256  # per request: the variants of an image differ in 8 bits
PROMPT = "caption en"


@dataclass(frozen=True)
class Measurements:
    """Speed and memory of a bundle on this machine. Durations are in seconds, medians over the rounds."""

    bundle_id: str
    precision: str
    device: str
    engine: str
    threads: int
    rounds: int
    tokens: int  # per answer
    load_s: float
    vision_s: float  # per image
    # The five fields from `prefill_s` to `own_share` describe a request with one image.
    prefill_s: float
    time_to_first_token_s: float
    token_s: float  # per generated token
    tokens_per_second: float
    own_share: float  # fraction of token_s spent outside the engine
    images_per_minute: dict[int, float]  # by the number of images per request
    peak_bytes: (
        int | None
    )  # peak resident memory, mapped weights included; None: the system does not report it


def batch_sizes(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Return the numbers of images per request from a text with commas: `1,4` -> (1, 4)."""
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,4") from None
    if not all(1 <= size <= MAX_IMAGES for size in sizes):
        raise click.BadParameter(f"{text!r} is not in the range 1 to {MAX_IMAGES}")
    return sizes


@click.command()
@BUNDLE
@click.option("--image", metavar="FILE", type=click.Path(), show_default="generated", help="Image file.")
@click.option(
    "--tokens",
    metavar="N",
    type=click.IntRange(2, 4096),
    default=20,
    help="Number of tokens to generate per answer.",
)
@click.option(
    "--rounds", metavar="N", type=click.IntRange(1, 1000), default=5, help="Number of measured rounds."
)
@click.option(
    "--batches",
    metavar="N,N,...",
    default="1,4",
    callback=batch_sizes,
    help="Batch sizes (images per request) to measure.",
)
@device_options
@ENGINE
@JSON
def bench(
    bundle: Path,
    image: str | None,
    tokens: int,
    rounds: int,
    batches: tuple[int, ...],
    device: DeviceOptions,
    engine: str,
    json: bool,
) -> None:
    """Measure the speed and memory use of BUNDLE on this machine.

    Reports load time, seconds per image for the vision encoder, prefill time, time to the first token,
    s/token, images/min for each batch size, and peak memory, as medians over the rounds after one warm-up
    request. Every answer has exactly the number of tokens given by --tokens.
    """
    images = images_for(image, max(batches))
    model = device.load(bundle, engine)
    benchmark = Benchmark(model)
    benchmark.measure(images[:1], PROMPT, tokens)
    costs: dict[int, list[Cost]] = {size: [] for size in dict.fromkeys((1, *batches))}
    for number in range(rounds):
        echo_stderr(f"round {number + 1} of {rounds}")
        for size, measured in costs.items():
            measured.append(benchmark.measure(images[:size], PROMPT, tokens))
    measurements = summarize(model, engine, costs, batches)
    echo(dumps(asdict(measurements)) if json else table(bundle, measurements))


def summarize(
    model: PaliGemma, engine: str, costs: dict[int, list[Cost]], batches: tuple[int, ...]
) -> Measurements:
    """Return the medians over the rounds.

    The keys of `costs` are numbers of images per request, and include 1.
    """
    single = costs[1]

    def median_of(name: str) -> float:
        return float(median(getattr(cost, name) for cost in single))

    return Measurements(
        bundle_id=model.manifest.bundle_id,
        precision=model.manifest.precision.name,
        device=model.device,
        engine=engine,
        threads=model.runner.placement.threads,
        rounds=len(single),
        tokens=single[0].tokens,
        load_s=model.load_s,
        vision_s=median_of("vision_s"),
        prefill_s=median_of("prefill_s"),
        time_to_first_token_s=median_of("time_to_first_token_s"),
        token_s=median_of("token_s"),
        tokens_per_second=median_of("tokens_per_second"),
        own_share=median_of("overhead_share"),
        images_per_minute={size: median(cost.images_per_minute for cost in costs[size]) for size in batches},
        peak_bytes=peak_bytes(),
    )


def table(bundle: Path, measured: Measurements) -> str:
    """Return the measurements as lines of text."""
    throughput = ", ".join(f"{rate:.1f} at batch {size}" for size, rate in measured.images_per_minute.items())
    peak = "unknown" if measured.peak_bytes is None else f"{measured.peak_bytes / 1e9:.2f} GB resident"
    lines = [
        f"{bundle}: {measured.precision}, {measured.device}, {measured.engine}, {measured.threads} threads, "
        f"{measured.tokens} tokens per answer, medians of {measured.rounds} rounds",
        f"load              {measured.load_s:.3f} s",
        f"vision            {measured.vision_s:.3f} s/image",
        f"prefill           {measured.prefill_s:.3f} s",
        f"first token       {measured.time_to_first_token_s:.3f} s",
        f"decode            {measured.token_s:.4f} s/token, {measured.tokens_per_second:.1f} tokens/s",
        f"Python overhead   {measured.own_share:.1%} of decode",
        f"images/min        {throughput}",
        f"peak memory       {peak}",
    ]
    return "\n".join(map(printable, lines))

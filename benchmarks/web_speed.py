"""Time the JavaScript driver and transformers.js in headless Chromium, on WebAssembly.

    npm ci --prefix web && npm run compile --prefix web && npm ci --prefix tests/web --ignore-scripts
    python -m benchmarks.web_speed --work work --json figures.json

Each model is exported twice: as a bundle, and as a layout for transformers.js in the same precision. In each
round both systems load the model in separate pages, and then answer the same request in turn, so that other
load on the machine affects both equally. Stop ids are excluded, so that all answers have the same number of
tokens. The command also times the page of `paligemma-onnx web`, from the start of the navigation until it can
load a model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.model import presets
from paligemma_onnx.runtime.website.server import HOST, open_server
from paligemma_onnx.runtime.website.site import site_files

from .checkpoint import make_checkpoint
from .exports import COMMAND, run_measured
from .options import parse_names, parse_numbers, write_json
from .sizes import BenchmarkModel

ROOT = Path(__file__).parents[1]
WEB, PEER = ROOT / "web", ROOT / "tests" / "web"
SCRIPT = WEB / "build" / "tests" / "parity" / "speed.js"
TRANSFORMERS_JS = PEER / "node_modules" / "@huggingface" / "transformers"
IMAGE = ROOT / "export" / "demo" / "scene.png"
PROMPT = "caption en"
# Precision of a bundle -> dtype of the layout with matrices in the same format; docs/transformers-js.md.
DTYPES = {"fp32": "fp32", "int8": "q8", "int4-portable": "q4"}
SYSTEMS = ("paligemma-onnx", "transformers.js")


def model_300m() -> BenchmarkModel:
    """Return a PaliGemma 1 of 303 million parameters, with the published vocabulary and images of 224 pixels.

    The decoder has the sizes of Gemma 3 270M.
    """
    published = presets.paligemma_3b(224)
    text = replace(
        published.text_config,
        hidden_size=640,
        intermediate_size=2048,
        num_attention_heads=4,
    )
    vision = replace(
        published.vision_config,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
    )
    return BenchmarkModel("random-300m", replace(published, vision_config=vision, text_config=text))


def export(checkpoint: Path, output: Path, options: Sequence[str]) -> str:
    """Export a checkpoint unless an earlier run did, and return the path of the output."""
    if not output.exists():
        click.echo(f"export {output.name}", err=True)
        arguments = ["export", str(checkpoint), "--output", str(output), "--no-validate", *options]
        run_measured([sys.executable, "-c", COMMAND, *arguments], output.with_name(f"{output.name}.log"))
    return str(output.resolve())


def export_model(checkpoint: Path, name: str, precision: str, work: Path) -> dict[str, Any]:
    """Export a bundle and a layout of the same precision; describe them for speed.ts."""
    dtype = DTYPES[precision]
    bundle = export(checkpoint, work / f"{name}-{precision}", ["--precision", precision])
    layout_options = ["--layout", "transformers.js", "--dtype", dtype]
    layout = export(checkpoint, work / f"{name}-{dtype}.js", layout_options)
    folders = {"paligemma-onnx": bundle, "transformers.js": layout}
    return {"name": f"{name} {precision}", "dtype": dtype, "folders": folders}


@contextmanager
def served_page(bundle: Path) -> Iterator[str]:
    """Serve the site of `paligemma-onnx web` for a bundle and yield its address."""
    with open_server(site_files(bundle, WEB, lambda line: click.echo(line, err=True)), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def run_script(job: dict[str, Any]) -> dict[str, Any]:
    """Run speed.ts in Node and return its figures."""
    for needed in (SCRIPT, TRANSFORMERS_JS):
        if not needed.exists():
            raise click.ClickException(f"{needed}: not found; run the commands of npm that --help names")
    with TemporaryDirectory() as scratch:
        job_file, result_file = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run(["node", str(SCRIPT), str(job_file), str(result_file)], check=True)
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        return result


def summarise(rounds: list[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Return the medians over all rounds, one row for each model, number of threads and system."""
    rows = []
    for model, threads, system in dict.fromkeys((r["model"], r["threads"], r["system"]) for r in rounds):
        chosen = [r for r in rounds if (r["model"], r["threads"], r["system"]) == (model, threads, system)]
        requests = [request for r in chosen for request in r["requests"]]
        rates = [(tokens - 1) / (each["totalS"] - each["firstTokenS"]) for each in requests]
        rows.append(
            {
                "model": model,
                "threads": threads,
                "system": system,
                "load_s": median(r["loadS"] for r in chosen),
                "first_token_s": median(each["firstTokenS"] for each in requests),
                "tokens_per_second": median(rates),
                "total_s": median(each["totalS"] for each in requests),
                "requests": len(requests),
            }
        )
    return rows


def same_ids(rounds: list[dict[str, Any]]) -> dict[str, int]:
    """Return for each model how many ids of the answer are equal in both systems, from the first id on."""
    answers = {(r["model"], r["system"]): r["requests"][0]["ids"] for r in rounds}
    counts = {}
    for model in dict.fromkeys(r["model"] for r in rounds):
        pairs = [a == b for a, b in zip(*(answers[model, system] for system in SYSTEMS), strict=True)]
        counts[model] = pairs.index(False) if False in pairs else len(pairs)
    return counts


def versions(rounds: list[dict[str, Any]]) -> dict[str, str]:
    """Return the versions of transformers.js and of both onnxruntime-web."""
    package = json.loads((TRANSFORMERS_JS / "package.json").read_text(encoding="utf-8"))
    runtimes = {f"onnxruntime-web of {r['system']}": r["onnxruntimeWeb"] for r in rounds}
    return {"transformers.js": package["version"], **runtimes}


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    return (
        f"{row['model']}, {row['threads']} threads, {row['system']}: load {row['load_s']:.2f} s, "
        f"first token {row['first_token_s']:.3f} s, {row['tokens_per_second']:.1f} tokens/s"
    )


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for exports, reused.")
@click.option("--size", type=click.Choice(["included", "300m"]), default="included", help="Model.")
@click.option(
    "--precisions",
    default=",".join(DTYPES),
    callback=lambda *given: parse_names(tuple(DTYPES), *given),
    help="Precisions of the bundle.",
)
@click.option("--threads", default="1,2", callback=parse_numbers, help="Numbers of threads.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Rounds; each loads every model.")
@click.option("--requests", type=click.IntRange(1), default=5, help="Timed requests per round.")
@click.option("--tokens", type=click.IntRange(2), default=64, help="Tokens per answer.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
def main(
    work: Path,
    size: str,
    precisions: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    requests: int,
    tokens: int,
    json_file: Path | None,
) -> None:
    """Export the models, time both systems, and print the medians."""
    started = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    plan = {"size": size, "rounds": rounds, "requests": requests, "tokens": tokens, "prompt": PROMPT}
    with ExitStack() as stack:
        is_included = size == "included"
        checkpoint = (
            stack.enter_context(shipped_model()) if is_included else make_checkpoint(work, model_300m())
        )
        models = [export_model(checkpoint, size, precision, work) for precision in precisions]
        job = {
            **{"models": models, "threads": threads, "rounds": rounds, "requests": requests},
            "transformersPage": str(PEER / "speed_page.mjs"),
            "transformersOrt": str(TRANSFORMERS_JS / "node_modules" / "onnxruntime-web" / "dist"),
            "images": str(IMAGE.parent),
            "request": {"image": f"/images/{IMAGE.name}", "prompt": PROMPT, "tokens": tokens},
            "site": stack.enter_context(served_page(Path(models[0]["folders"]["paligemma-onnx"]))),
        }
        figures = run_script(job)
    rows = summarise(figures["rounds"], tokens)
    for row in rows:
        click.echo(format_row(row))
    equal = same_ids(figures["rounds"])
    click.echo(f"page ready after {median(figures['pageReadyS']):.2f} s; equal ids of {tokens}: {equal}")
    for each in figures["rounds"]:
        for request in each["requests"]:
            del request["ids"]  # the file has durations only
    if json_file is not None:
        facts = {"versions": versions(figures["rounds"]), "medians": rows, "same_ids": equal, **figures}
        write_json(json_file, plan, started, facts)


if __name__ == "__main__":
    main()

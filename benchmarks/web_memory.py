"""Load bundles with the JavaScript driver, answer once, and measure memory: what fits into a browser.

    npm ci --prefix web && npm run compile --prefix web
    python -m benchmarks.real_size --work work --precisions int4-compact,int4-portable --rounds 1
    python -m benchmarks.web_memory work/paligemma-224-int4-compact work/paligemma-224-int4-portable

Each bundle is loaded once in each runtime: onnxruntime-node, onnxruntime-web in Node, and
onnxruntime-web in headless Chromium, on WebAssembly. `--runtimes webgpu` runs WebGPU in Chromium on
SwiftShader, whose buffers are in another process. The command prints the seconds of loading and of
the first token, the tokens per second, the largest resident memory of the process (in Chromium that
of the page), and the size of WebAssembly's memory, which is at most 4 GiB; or what failed.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from paligemma_onnx.runtime.bundle.manifest import read_manifest

from .options import GB, parse_names, write_json

SCRIPT = Path(__file__).parents[1] / "web" / "build" / "tests" / "parity" / "memory.js"
RUNTIMES = ("onnxruntime-node", "onnxruntime-web", "chromium", "webgpu")
PROMPT = "caption en"
# Megabytes of V8's heap. It holds no weights: typed arrays and WebAssembly have their memory outside.
HEAP_MB = 2048


def measure(bundle: Path, runtime: str, threads: int, tokens: int) -> dict[str, Any]:
    """Return the figures of one bundle in one runtime. The runtime is a new process."""
    if not SCRIPT.is_file():
        raise click.ClickException(f"{SCRIPT}: no such file; run `npm run compile --prefix web`")
    manifest = read_manifest(bundle)
    job = {
        "bundle": str(bundle.resolve()),
        "runtime": runtime,
        "threads": threads,
        "request": {"prompt": PROMPT, "tokens": tokens},
    }
    with TemporaryDirectory() as scratch:
        job_file, result_file = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = ["node", f"--max-old-space-size={HEAP_MB}", str(SCRIPT), str(job_file), str(result_file)]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if ended.returncode == 0:
            figures = json.loads(result_file.read_text(encoding="utf-8"))
        else:
            last = ended.stderr.strip().splitlines()[-1:]
            figures = {"problem": f"the process ended with code {ended.returncode}: {''.join(last)}"}
    size = sum(spec.bytes for spec in manifest.files.values())
    facts = {
        "precision": manifest.precision.name,
        "parameters": manifest.model.parameters,
        "bundleBytes": size,
    }
    return {**facts, "runtime": runtime, "threads": threads, **figures}


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    stages = {
        "loadS": "load {:.1f} s",
        "firstTokenS": "first token {:.2f} s",
        "tokensPerSecond": "{:.2f} tokens/s",
    }
    parts = [text.format(row[name]) for name, text in stages.items() if name in row]
    sizes = {
        "residentBytes": "resident {:.2f} GB",
        "gpuProcessBytes": "GPU process {:.2f} GB",
        "wasmBytes": "WebAssembly {:.2f} GB",
    }
    parts += [text.format(row[name] / GB) for name, text in sizes.items() if row.get(name)]
    parts += [row["problem"]] if "problem" in row else []
    return f"{row['precision']} ({row['bundleBytes'] / GB:.2f} GB), {row['runtime']}: {', '.join(parts)}"


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--runtimes",
    default=",".join(RUNTIMES[:3]),
    callback=lambda *given: parse_names(RUNTIMES, *given),
    help="Runtimes.",
)
@click.option("--threads", type=click.IntRange(1), default=2, help="Number of threads.")
@click.option("--tokens", type=click.IntRange(2), default=4, help="Tokens of the answer.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
def main(
    bundles: tuple[Path, ...], runtimes: tuple[str, ...], threads: int, tokens: int, json_file: Path | None
) -> None:
    """Measure every bundle in every runtime, one after another."""
    started = time.perf_counter()
    rows = []
    for bundle in bundles:
        for runtime in runtimes:
            rows.append(measure(bundle, runtime, threads, tokens))
            click.echo(format_row(rows[-1]))
            if json_file is not None:
                plan = {"threads": threads, "tokens": tokens, "prompt": PROMPT}
                write_json(json_file, plan, started, {"results": rows})


if __name__ == "__main__":
    main()

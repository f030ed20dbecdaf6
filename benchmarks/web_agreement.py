"""Compare the JavaScript driver with the Python driver on the golden prompts, bundle by bundle.

    npm ci --prefix web && npm run compile --prefix web
    python -m benchmarks.web_agreement BUNDLE ... --runtime onnxruntime-node --runtime chromium --json FILE

The bundles are exports of the model in the repository. WebAssembly does not round activations to 8 bits, as
native kernels do, so quantised bundles may choose another id where two are almost equally likely. Such an id
changes the rest of the answer. So the ids are also compared teacher-forced: in each step the driver reads the
ids of the Python driver.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from PIL import Image

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.generation.types import Generation

from . import machine

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PROGRAMS = {"onnxruntime-node": "answers", "onnxruntime-web": "answers", "chromium": "page_answers"}
MAX_NEW_TOKENS = 96  # per answer, as in the golden answers


@dataclass(frozen=True)
class Agreement:
    """The numbers of answers and ids of a runtime that equal those of the Python driver."""

    precision: str
    runtime: str
    answers: int  # that have equal ids
    prompts: int
    agreeing: int  # ids that are equal, teacher-forced; the stop id of an answer counts
    tokens: int

    @property
    def percent(self) -> float:
        """Percentage of equal ids, teacher-forced."""
        return 100 * self.agreeing / self.tokens


def compare(bundle: Path, runtimes: tuple[str, ...], scratch: Path) -> list[Agreement]:
    """Return the agreement of each runtime with the Python driver for all golden prompts."""
    entries = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    model = PaliGemma.load(bundle, device="cpu")
    answers, requests = list[Generation](), list[dict[str, Any]]()
    for entry in entries:
        image, prompt = GOLDEN / entry["image"], entry["prompt"]
        answer = model.generate(image, prompt, max_new_tokens=MAX_NEW_TOKENS)
        stop = model.manifest.tokens.stop[:1] if answer.finish_reason == "stop" else ()
        answers.append(answer)
        requests.append(
            {
                "images": [_decoded(image, scratch)],
                "task": "generate",
                "prompt": prompt,
                "options": {"maxNewTokens": MAX_NEW_TOKENS},
                "forced": [*answer.token_ids, *stop],
            }
        )
    tokens = sum(len(request["forced"]) for request in requests)
    results = []
    for runtime in runtimes:
        actual = _run(
            runtime, {"bundle": str(bundle.resolve()), "runtime": runtime, "requests": requests}, scratch
        )
        pairs = zip(actual, answers, strict=True)
        equal = sum(each["tokenIds"] == list(answer.token_ids) for each, answer in pairs)
        agreeing = sum(each["agreeing"] for each in actual)
        precision = model.manifest.precision.name
        results.append(Agreement(precision, runtime, equal, len(entries), agreeing, tokens))
    return results


def _decoded(image: Path, scratch: Path) -> dict[str, Any]:
    """Write the pixels of an image, uint8[height, width, 3], to a file and describe the file."""
    pixels = np.asarray(Image.open(image).convert("RGB"))
    file = scratch / f"{image.name}.rgb"
    file.write_bytes(pixels.tobytes())
    return {"file": str(file), "width": pixels.shape[1], "height": pixels.shape[0]}


def _run(runtime: str, job: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
    script = ROOT / "web" / "build" / "tests" / "parity" / f"{PROGRAMS[runtime]}.js"
    if not script.is_file():
        raise click.ClickException(f"{script}: no such file; run `npm run compile --prefix web`")
    job_file, result_file = scratch / "job.json", scratch / "result.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    subprocess.run(["node", str(script), str(job_file), str(result_file)], check=True)
    answers: list[dict[str, Any]] = json.loads(result_file.read_text(encoding="utf-8"))
    return answers


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(PROGRAMS)), required=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="File for the figures.")
def main(bundles: tuple[Path, ...], runtimes: tuple[str, ...], output: Path | None) -> None:
    """Print the agreement of every bundle in every runtime."""
    results = list[Agreement]()
    for bundle in bundles:
        with TemporaryDirectory() as scratch:
            for result in compare(bundle, runtimes, Path(scratch)):
                results.append(result)
                click.echo(
                    f"{result.precision} {result.runtime}: {result.answers} of {result.prompts} answers, "
                    f"{result.agreeing} of {result.tokens} ids ({result.percent:.2f} %)"
                )
    if output is not None:
        content = {"machine": machine.describe(), "results": [asdict(result) for result in results]}
        output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Every benchmark command that README.md and docs/ name, run as a process on miniatures, and its JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from time_limits import HANG

from benchmarks.checkpoint import make_checkpoint
from benchmarks.exports import precisions_for
from benchmarks.peers.catalogue import PEERS
from benchmarks.sizes import benchmark_model

pytestmark = [pytest.mark.slow, pytest.mark.full]

TINY = ("--size", "tiny", "--rounds", "1")
WITH_TOOLS = "BENCHMARK_PEERS"  # environment variable: also run tools that have to be installed


def run(command: str, *options: object, code: int = 0) -> str:
    """Run `python -m benchmarks.COMMAND`, which must end with `code`, and return its stdout."""
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command}", *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert ended.returncode == code, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def assert_measured(system: dict[str, Any], *metrics: str) -> None:
    """Assert that a system did not fail, and that its figures are positive numbers."""
    assert system["failure"] is None
    assert set(metrics) <= system["medians"].keys()
    assert all(value > 0 for value in system["medians"].values())
    assert len(system["rounds"]) == 1


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder with the bundles of every precision that runs on a CPU."""
    folder = tmp_path_factory.mktemp("work")
    run("real_size", "--work", folder, *TINY, "--export-only")
    return folder


def test_real_size_exports_only(work: Path) -> None:
    """Alone, so that the time of the exports counts for no other test."""
    for precision in precisions_for("cpu"):
        assert (work / f"paligemma-tiny-{precision}" / "manifest.json").exists()


def test_real_size(work: Path, tmp_path: Path) -> None:
    """By default it measures the precisions that run on a CPU, and all of them run."""
    file = tmp_path / "figures.json"
    sizes = ("--batches", "1,2", "--pasts", "264", "--tokens", "4", "--reference", "bf16")
    engines = ("--openvino", "int4-portable")
    table = run("real_size", "--work", work, *TINY, *sizes, *engines, "--json", file)
    document = read(file)
    systems = document["contenders"]
    assert systems.keys() == {*precisions_for("cpu"), "int4-portable openvino", "transformers bf16"}
    requests = (
        "vision_s",
        "prefill_s",
        "time_to_first_token_s",
        "step_s_1",
        "step_s_2",
        "images_per_minute_2",
    )
    for name, system in systems.items():
        assert_measured(system, *requests)
        assert system["decoder_bytes"] > 0
        assert len(system["starts"]) == 2
        assert min(system["peak"].values()) > 0
        (load,) = system["other_processors"]
        assert load >= 0
        if not name.startswith("transformers"):
            assert_measured(system, "own_share", "step_s_past_264")
            assert (system["prepared"] is None) == (name in ("fp32", "int4-portable openvino"))
        assert (system["export"] is None) == (name not in precisions_for("cpu"))
    assert document["bounds"]["read_bytes_per_s"] == document["limits"]["medians"]["read_bytes_per_s"] > 0
    assert {"cpu", "flags", "memory_bytes", "versions"} <= document["machine"].keys()
    assert (document["plan"]["subject"], document["plan"]["pasts"]) == ("paligemma-tiny", [264])
    assert "| decode step with a 264-token cache, s |" in table
    assert "FAILED" not in table


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_start(work: Path, tmp_path: Path, precision: str) -> None:
    file, bundle = tmp_path / "figures.json", work / f"paligemma-tiny-{precision}"
    text = run("start", bundle, "--work", tmp_path, "--rounds", "1", "--requests", "2", "--json", file)
    document = read(file)
    ways = {"bundle", "prepared", "prepared, low memory"} & document.keys()
    assert len(ways) == (1 if precision == "fp32" else 3)
    for way in ways:
        starts = document[way]
        (spans,) = starts["spans"]
        parts = [span["part"] for span in spans]
        assert {"imports", "tokenizer", "session prefill.onnx", "load"} <= set(parts)
        assert parts.count("prefill run") == 2  # one for each request
        assert all(0 <= span["begin_s"] <= span["end_s"] for span in spans)
        milestones = list(starts["milestones"].values())
        assert milestones == sorted(milestones)
        assert starts["answered"][0]["proportional"] > 0
        assert way in text


def test_real_size_reports_a_system_that_fails(tmp_path: Path) -> None:
    """The others, here the hardware's limits, are measured nevertheless."""
    checkpoint = make_checkpoint(tmp_path, benchmark_model("paligemma", "tiny", 224))
    (checkpoint / "model.safetensors.index.json").unlink()
    file = tmp_path / "figures.json"
    options = ("--precisions", "", "--reference", "bf16", "--json", file)
    table = run("real_size", "--work", tmp_path, *TINY, *options)
    assert "transformers bf16 FAILED: " in table
    document = read(file)
    assert document["contenders"]["transformers bf16"]["failure"]
    assert document["limits"]["medians"]["read_bytes_per_s"] > 0


def test_plot(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed: pip install '.[plot]'")
    image = tmp_path / "figures.png"
    run("plot", ROOT / "benchmarks" / "measured" / "paligemma-224-zen4.json", image)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_token_scores(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    table = run("token_scores", "--work", tmp_path / "work", "--json", file)
    costs = read(file)["costs"]
    wide = ["vocabulary-257216-fp32", "vocabulary-257216-int4"]
    assert [cost["name"] for cost in costs] == ["included", *wide]
    assert all(0 < cost["score_s"] < cost["step_s"] for cost in costs)
    assert table.count("%") == len(costs)


def test_forced_tokens(shipped_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run("forced_tokens", shipped_bundle, "--answers", "4", "--batch", "1,4", "--json", file)
    for result in read(file)["results"]:
        assert result["equal"] == result["answers"] == 4
        assert result["largest_logprob_difference"] <= 1e-5
        assert min(result["ratio"], result["decode_ratio"], result["tokens"]) > 0


def test_peers_with_bundles_only(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    bundles = ("--bundles", "int4,int8", "--peers", "", "--steps", "2")
    table = run("peers", "--work", work, *TINY, *bundles, "--json", file)
    systems = read(file)["contenders"]
    assert systems.keys() == {"int4", "int8"}
    for system in systems.values():
        assert_measured(system, "prefill_s_264", "step_s_past_264")
    assert "| decode step with a 264-token cache, s |" in table
    assert "FAILED" not in table


@pytest.mark.parametrize("peer", PEERS)
def test_peers_with_a_tool(work: Path, tmp_path: Path, peer: str) -> None:
    if WITH_TOOLS not in os.environ:
        pytest.skip(
            f"pip would install {PEERS[peer].distribution} and its dependencies into an environment"
            f"{', which compiles llama.cpp' if 'llama' in peer else ''}: set {WITH_TOOLS}=1 to run it"
        )
    file = tmp_path / "figures.json"
    run("peers", "--work", work, *TINY, "--bundles", "", "--peers", peer, "--steps", "2", "--json", file)
    assert_measured(read(file)["contenders"][peer], "prefill_s_264", "step_s_past_264")


def test_peers_reports_a_tool_that_cannot_be_installed(work: Path, tmp_path: Path) -> None:
    """Without a package index, pip fails, and so does the tool."""
    file = tmp_path / "figures.json"
    code = (
        "import sys; from pathlib import Path; from benchmarks.peers import environment; "
        f"environment.requirements = lambda name: Path({str(tmp_path / 'none.txt')!r}); "
        "from benchmarks.peers.__main__ import main; main()"
    )
    (tmp_path / "none.txt").write_text("--no-index\noptimum-onnx==0.1.0\n")
    options = ("--bundles", "", "--peers", "optimum", "--json", file)
    ended = subprocess.run(
        [sys.executable, "-c", code, "--work", str(work), *TINY, *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert ended.returncode == 0, ended.stderr
    assert "optimum FAILED: not created: No matching distribution" in ended.stdout
    assert read(file)["contenders"]["optimum"]["tool"] == "optimum-onnx 0.1.0"


def test_batch(tmp_path: Path) -> None:
    """It ends with an error if a promise is broken."""
    file = tmp_path / "figures.json"
    run("batch", "--work", tmp_path, "--scenes", 40, "--kills", 1, "--json", file)
    figures = read(file)
    assert figures["times"] > 0
    assert [figures[name] for name in ("other_texts", "killed", "broken", "shards")] == [0, 0, 2, 0]


def test_batch_memory(work: Path, tmp_path: Path) -> None:
    """It ends with an error if memory grows."""
    file = tmp_path / "figures.json"
    bundle = work / "paligemma-tiny-fp32"
    run("batch_memory", "--bundle", bundle, "--work", tmp_path, "--inputs", 20_000, "--json", file)
    figures = read(file)
    assert figures["rows"] == figures["inputs"] == 20_000
    assert len(figures["resident_bytes"]) == 20


def test_cuda_on_a_cpu(work: Path, tmp_path: Path) -> None:
    """Without a GPU it runs the tests' CPU form and times a miniature."""
    file = tmp_path / "figures.json"
    options = ("--device", "cpu", "--tokens", "4", "--batches", "1,2", "--json", file)
    table = run("cuda", "--work", work, *TINY, *options)
    document = read(file)
    assert {name: step["state"] for name, step in document["steps"].items()} == dict.fromkeys(
        ("checkpoint", "tests", "export fp32", "timing"), "done"
    )
    assert document["passed"] is True
    tests = {check["name"]: check for check in document["checks"]}
    tokens = tests["test_tokens_on_the_cpu[fp32]"]
    assert (tokens["passed"], tokens["properties"]["share"]) == (True, "100.0000%")
    systems = document["timing"]["contenders"]
    assert systems.keys() == {"fp32", "transformers bf16"}
    for system in systems.values():
        assert_measured(system, "prefill_s", "prefill_s_batch_2", "step_s_2")
    assert "| test_tokens_on_the_cpu[fp32] |" in table

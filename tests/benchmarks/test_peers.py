"""Benchmarks of other tools: everything that can be tested without them and without a network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import ROOT

from benchmarks.exports import Export
from benchmarks.measured_process import MeasuredProcess, ProcessFailed, ProcessSpec
from benchmarks.memory import Memory
from benchmarks.peers import environment
from benchmarks.peers import systems as peer_systems
from benchmarks.peers.__main__ import main, report
from benchmarks.peers.bundle_decoder import BundleDecoder
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.decoder import TOKENS, capacity_for, prompt_ids
from benchmarks.peers.environment import REQUIREMENTS, make_environment, pinned
from benchmarks.peers.systems import PeersPlan, make_systems
from benchmarks.results import Result
from benchmarks.rounds import measure_starts, run_rounds
from benchmarks.sizes import benchmark_model

FOLDER = ROOT / "benchmarks" / "peers"
ELSEWHERE = ("llama_cpp", "gguf_file", "genai", "optimum_onnx")  # modules that run in tools' environments
TOOLS = {"gguf", "llama_cpp", "onnxruntime_genai", "onnxruntime", "optimum", "torch"}
STUB = """
import os
from benchmarks.peers.decoder import Decoder

class Stub(Decoder):
    def __init__(self, model, threads, steps, capacity):
        super().__init__(steps)
        if os.environ["WHERE"] != model:
            raise ValueError("another interpreter")
        self.read = 0

    def clear_cache(self):
        self.read = 0

    def prefill(self, tokens):
        self.read += tokens

    def step(self):
        self.read += 1

    def tokens_read(self):
        return self.read
"""


def plan(bundles: tuple[str, ...] = (), peers: tuple[str, ...] = ()) -> PeersPlan:
    model = benchmark_model("paligemma", "tiny", 224)
    return PeersPlan(model, bundles, peers, rounds=2, steps=3, threads=1, memory_bytes=1 << 40)


def stub(folder: Path, where: str) -> ProcessSpec:
    """A decoder in another interpreter, which alone finds the decoder's module."""
    (folder / "stub_decoder.py").write_text(STUB)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nWHERE={where} PYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    arguments = plan().arguments(Path("there"))
    return ProcessSpec("stub", "stub_decoder", "Stub", arguments, interpreter=str(python))


def test_a_decoder_in_another_interpreter_is_measured(tmp_path: Path) -> None:
    spec, log = stub(tmp_path, "there"), tmp_path / "stub.log"
    with MeasuredProcess(spec, log) as process:
        process.call("warm_up", batches=[1])
        assert process.call("tokens_read") == TOKENS + 1
        process.call("round", batches=[1], pasts=[TOKENS])
        assert process.call("tokens_read") == TOKENS + 1 + 3 < capacity_for(TOKENS, 3)
    result = Result("stub")
    measure_starts(spec, result, log)
    assert len(result.starts) == 2
    measure_rounds(spec, result, tmp_path)
    assert [set(metrics) for metrics in result.rounds] == [{"prefill_s_264", "step_s_past_264"}] * 2
    assert len(result.other_processors) == 2


def test_the_memory_of_the_first_process_can_be_measured_in_the_rounds(tmp_path: Path) -> None:
    results = Result("stub"), Result("stub")
    for sample_memory, result in zip((False, True), results, strict=True):
        measure_rounds(stub(tmp_path, "there"), result, tmp_path, sample_memory=sample_memory)
    unknown, measured = (result.peak for result in results)
    assert unknown is None
    assert measured is not None
    assert min(measured.anonymous, measured.file, measured.proportional) > 1_000_000
    assert len(results[1].starts) == 1


def measure_rounds(spec: ProcessSpec, result: Result, logs: Path, *, sample_memory: bool = False) -> None:
    run_rounds(
        [spec],
        {"stub": result},
        rounds=2,
        batches=(1,),
        pasts=(TOKENS,),
        persistent=frozenset({"stub"}),
        warm_up=(1,),
        sample_memory=sample_memory,
        logs=logs,
        log=lambda _: None,
        after_round=lambda: None,
    )
    assert result.failure is None


def test_which_interpreter_it_is_matters(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="another interpreter"):
        MeasuredProcess(stub(tmp_path, "elsewhere"), tmp_path / "log")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundle", "in_place_bundle"])
def test_our_graphs_are_measured_alike(kind: str, request: pytest.FixtureRequest) -> None:
    """Image features and text tokens together are as many positions as the other tools read."""
    bundle: Callable[[str], Path] = request.getfixturevalue(kind)
    decoder = BundleDecoder(**plan().arguments(bundle("gemma_one_kv_head")))
    decoder.warm_up([1])
    assert decoder.cached_tokens == TOKENS + 1
    metrics = decoder.round([1], [TOKENS])
    assert set(metrics) == {"prefill_s_264", "step_s_past_264"}
    assert all(value > 0 for value in metrics.values())
    assert decoder.cached_tokens == TOKENS + 1 + 3


def test_neighbouring_tokens_of_a_prompt_differ() -> None:
    ids = prompt_ids(TOKENS)
    assert len(ids) == TOKENS
    assert all(one != other for one, other in pairwise(ids))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_modules_of_other_environments_import_little(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name in TOOLS | {"numpy"} | sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            top = (node.module or "").partition(".")[0]
            near = {"decoder", "gguf_file"} if node.level else TOOLS | {"numpy"} | sys.stdlib_module_names
            assert top in near


def test_what_every_environment_runs_needs_no_package() -> None:
    """An interpreter without site-packages imports the worker and the base class of decoders."""
    code = "import benchmarks.worker, benchmarks.peers.decoder"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env={}, check=True)


@pytest.mark.parametrize("name", PEERS)
def test_catalogue(name: str) -> None:
    peer = PEERS[name]
    assert peer.name == name
    command = peer.command(Path("python"), Path("text"), Path("out"), 3)
    assert command[:2] == ["python", "-m"]
    assert {"text", "out"} <= set(command)
    assert not any("{" in argument for argument in command)
    assert re.fullmatch(rf"{peer.distribution} [\d.]+", pinned(peer.environment, peer.distribution))
    source = (ROOT / peer.module.replace(".", "/")).with_suffix(".py").read_text()
    assert f"class {peer.class_name}(Decoder)" in source


def test_every_requirement_is_pinned() -> None:
    assert {file.stem for file in REQUIREMENTS.iterdir()} == {peer.environment for peer in PEERS.values()}
    for file in REQUIREMENTS.iterdir():
        for line in file.read_text().splitlines():
            assert line.startswith(("#", "--no-binary ")) or re.match(r"[\w\[\].-]+==[\d.]+( |$)", line), line


def test_an_environment_is_made_once_for_what_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required, commands = tmp_path / "tool.txt", list[Sequence[str]]()
    required.write_text("tool==1\n")
    monkeypatch.setattr(environment, "requirements", lambda _: required)

    def run_measured(command: Sequence[str], _log: Path) -> tuple[float, Memory]:
        commands.append(command)
        (tmp_path / "environments" / "tool").mkdir(parents=True, exist_ok=True)
        return 0.0, Memory()

    monkeypatch.setattr(environment, "run_measured", run_measured)
    python = make_environment(tmp_path, "tool", tmp_path / "log")
    assert python == tmp_path / "environments" / "tool" / "bin" / "python"
    make_environment(tmp_path, "tool", tmp_path / "log")
    assert [command[2] for command in commands] == ["venv", "pip"]
    required.write_text("tool==2\n")
    make_environment(tmp_path, "tool", tmp_path / "log")
    assert len(commands) == 4


def test_what_was_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion runs once, into a folder that gets its name when it is complete."""
    text, logs, made = tmp_path / "text", tmp_path / "logs", tmp_path / "text-genai-int4-128" / "a"
    text.mkdir()
    logs.mkdir()
    code = (
        "import sys, pathlib; out = pathlib.Path(sys.argv[6]); out.mkdir(); (out / 'a').write_bytes(b'abc')"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(peer_systems, "make_environment", lambda *_: python)
    for _ in range(2):
        (system,) = make_systems(text, text, plan(peers=("genai-int4-128",)), logs, lambda _: None)
        assert system.result.failure is None
        assert system.result.export is not None
        assert system.result.export.bytes == 3
        assert system.result.tool == "onnxruntime-genai 0.18.0"
        assert system.process is not None
        assert system.process.interpreter == str(python)
        assert system.process.files == (made,)
        os.utime(made, (1, 1))
    assert made.stat().st_mtime == 1


def test_table_of_fixed_figures() -> None:
    def result(name: str, times: float) -> Result:
        metrics = {"prefill_s_264": 1.0 * times, "step_s_past_264": 0.1 * times}
        return Result(
            name,
            Export(60, Memory(anonymous=10**9), 2 * 10**9),
            starts=[4, 2],
            peak=Memory(10**9, 10**9, 2 * 10**9, 2 * 10**9),
            rounds=[metrics],
        )

    bundle, peer = result("int4", 1), result("llama.cpp-q4_0", 2)
    peer.tool = "llama-cpp-python 0.3.36"
    failed = Result("optimum", failure="not made: No matching distribution")
    text = report({system.name: system for system in (bundle, peer, failed)}, plan(("int4",)))
    for line in (
        "| | int4 | llama.cpp-q4_0 | optimum |",
        "| decoder on disk, GB | 2.00 | 2.00 (1.00x) | - |",
        "| prefill of 264 tokens, s | 1.000 | 2.000 (0.50x) | - |",
        "| decode step with a 264-token cache, s | 0.1000 | 0.2000 (0.50x) | - |",
        "In brackets: ratio to int4; over 1 is faster or smaller.",
        "paligemma-tiny, 1 threads, medians of 2 rounds.",
        "llama.cpp-q4_0: llama-cpp-python 0.3.36.",
        "optimum FAILED: not made: No matching distribution",
    ):
        assert line in text.splitlines(), text


def test_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["--work", str(tmp_path / "none"), "--peers", "llama"])
    assert ended.exit_code == 2
    assert "is not one of llama.cpp-q4_0" in " ".join(ended.output.split())
    assert not (tmp_path / "none").exists()

"""Other tools beside the bundles: all that can be tried without them, and without a network."""

from __future__ import annotations

import ast
import json
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

from benchmarks.exports import Export, ExportFailed, note, noted, watch
from benchmarks.measured_process import Contender, ContenderFailed, Running
from benchmarks.memory import Memory
from benchmarks.peers import environment
from benchmarks.peers import systems as peers_entrants
from benchmarks.peers.__main__ import main, report
from benchmarks.peers.bundle_decoder import Ours
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.decoder import TOKENS, prompt_ids, slots_for
from benchmarks.peers.environment import REQUIREMENTS, make_environment, pinned
from benchmarks.peers.systems import Plan, entrants
from benchmarks.results import Result
from benchmarks.rounds import first_starts, run_rounds
from benchmarks.sizes import subject

FOLDER = ROOT / "benchmarks" / "peers"
ELSEWHERE = ("llama_cpp", "gguf_file", "genai", "optimum_onnx")  # modules of tools' own environments
TOOLS = {"gguf", "llama_cpp", "onnxruntime_genai", "onnxruntime", "optimum", "torch"}
STUB = """
import os
from benchmarks.peers.decoder import Decoder

class Stub(Decoder):
    def __init__(self, model, threads, steps, slots):
        super().__init__(steps)
        if os.environ["WHERE"] != model:
            raise ValueError("another interpreter")
        self.read = 0

    def forget(self):
        self.read = 0

    def prefill(self, tokens):
        self.read += tokens

    def step(self):
        self.read += 1

    def tokens_read(self):
        return self.read
"""


def plan(bundles: tuple[str, ...] = (), peers: tuple[str, ...] = ()) -> Plan:
    return Plan(subject("paligemma", "tiny", 224), bundles, peers, rounds=2, steps=3, threads=1, room=1 << 40)


def stub(folder: Path, where: str) -> Contender:
    """A decoder behind an interpreter that says where it is, and finds a module nobody else does."""
    (folder / "stub_decoder.py").write_text(STUB)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nWHERE={where} PYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    asked = plan().asked(Path("there"))
    return Contender("stub", "stub_decoder", "Stub", asked, interpreter=str(python))


def test_a_decoder_in_another_interpreter_is_measured(tmp_path: Path) -> None:
    contender, log = stub(tmp_path, "there"), tmp_path / "stub.log"
    with Running(contender, log) as running:
        running.call("once")
        assert running.call("tokens_read") == TOKENS + 1
        running.call("round", batches=[1], pasts=[TOKENS])
        assert running.call("tokens_read") == TOKENS + 1 + 3 < slots_for(TOKENS, 3)
    result = Result("stub")
    first_starts(contender, result, log)
    run_rounds(
        [contender],
        {"stub": result},
        rounds=2,
        batches=(1,),
        pasts=(TOKENS,),
        room=1 << 40,
        logs=tmp_path,
        say=lambda _: None,
        finished=lambda: None,
    )
    assert result.failure is None
    assert [set(figures) for figures in result.rounds] == [{"prefill_s_264", "step_s_past_264"}] * 2


def test_which_interpreter_it_is_matters(tmp_path: Path) -> None:
    with pytest.raises(ContenderFailed, match="another interpreter"):
        Running(stub(tmp_path, "elsewhere"), tmp_path / "log")


@pytest.mark.parametrize("kind", ["bundle", "in_place_bundle"])
def test_our_graphs_are_measured_alike(kind: str, request: pytest.FixtureRequest) -> None:
    """Features and words together are as many tokens as the others read."""
    bundle: Callable[[str], Path] = request.getfixturevalue(kind)
    decoder = Ours(**plan().asked(bundle("gemma_one_kv_head")))
    decoder.once()
    assert list(decoder._cache.lengths) == [TOKENS + 1]
    figures = decoder.round([1], [TOKENS])
    assert set(figures) == {"prefill_s_264", "step_s_past_264"}
    assert all(value > 0 for value in figures.values())
    assert list(decoder._cache.lengths) == [TOKENS + 1 + 3]


def test_a_prompt_has_different_words() -> None:
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
    """An interpreter without site-packages imports the worker and what decoders are made of."""
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
    assert f"class {peer.kind}(Decoder)" in source


def test_every_requirement_is_pinned() -> None:
    assert {file.stem for file in REQUIREMENTS.iterdir()} == {peer.environment for peer in PEERS.values()}
    for file in REQUIREMENTS.iterdir():
        for line in file.read_text().splitlines():
            assert line.startswith(("#", "--no-binary ")) or re.match(r"[\w\[\].-]+==[\d.]+( |$)", line), line


def test_an_environment_is_made_once_for_what_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, commands = tmp_path / "tool.txt", list[Sequence[str]]()
    wanted.write_text("tool==1\n")
    monkeypatch.setattr(environment, "requirements", lambda _: wanted)

    def watch(command: Sequence[str], _log: Path) -> tuple[float, Memory]:
        commands.append(command)
        (tmp_path / "environments" / "tool").mkdir(parents=True, exist_ok=True)
        return 0.0, Memory()

    monkeypatch.setattr(environment, "watch", watch)
    python = make_environment(tmp_path, "tool", tmp_path / "log")
    assert python == tmp_path / "environments" / "tool" / "bin" / "python"
    make_environment(tmp_path, "tool", tmp_path / "log")
    assert [command[2] for command in commands] == ["venv", "pip"]
    wanted.write_text("tool==2\n")
    make_environment(tmp_path, "tool", tmp_path / "log")
    assert len(commands) == 4


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no room')", "ValueError: no room"),
        ("import json; json.loads('x')", "json.decoder.JSONDecodeError: Expecting"),
        ("print('ERROR: No matching distribution'); exit(1)", "No matching distribution"),
        ("print('error: no space'); exit(5)", "no space"),
        ("exit(3)", "its process ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "memory runs out"),
    ],
)
def test_how_a_command_failed(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(ExportFailed) as failed:
        watch([sys.executable, "-c", code], tmp_path / "log")
    assert words in str(failed.value)


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
    monkeypatch.setattr(peers_entrants, "make_environment", lambda *_: python)
    for _ in range(2):
        ((result, contender),) = entrants(text, text, plan(peers=("genai-int4-128",)), logs, lambda _: None)
        assert result.failure is None
        assert result.export is not None
        assert result.export.bytes == 3
        assert result.tool == "onnxruntime-genai 0.18.0"
        assert contender is not None
        assert contender.interpreter == str(python)
        assert contender.files == (made,)
        os.utime(made, (1, 1))
    assert made.stat().st_mtime == 1


def test_notes_go_with_what_they_are_about(tmp_path: Path) -> None:
    made = Export(1.5, Memory(anonymous=3), 7)
    note(tmp_path / "model", made)
    assert noted(tmp_path / "model") is None  # it is gone
    (tmp_path / "model").mkdir()
    assert noted(tmp_path / "model") == made
    assert noted(tmp_path / "model", "of other code") is None


def test_table_of_fixed_figures() -> None:
    def result(name: str, times: float) -> Result:
        figures = {"prefill_s_264": 1.0 * times, "step_s_past_264": 0.1 * times}
        return Result(
            name,
            Export(60, Memory(anonymous=10**9), 2 * 10**9),
            starts=[4, 2],
            peak=Memory(10**9, 10**9, 2 * 10**9, 2 * 10**9),
            rounds=[figures],
        )

    ours, theirs = result("int4", 1), result("llama.cpp-q4_0", 2)
    theirs.tool = "llama-cpp-python 0.3.36"
    gone = Result("optimum", failure="not made: No matching distribution")
    text = report({one.name: one for one in (ours, theirs, gone)}, plan(("int4",)))
    for line in (
        "| | int4 | llama.cpp-q4_0 | optimum |",
        "| decoder on disk, GB | 2.00 | 2.00 (1.00x) | - |",
        "| prefill of 264 tokens, s | 1.000 | 2.000 (0.50x) | - |",
        "| step behind 264 tokens, s | 0.1000 | 0.2000 (0.50x) | - |",
        "In brackets: times as good as int4; over 1 is faster or smaller.",
        "paligemma-tiny, 1 threads, medians of 2 rounds.",
        "llama.cpp-q4_0: llama-cpp-python 0.3.36.",
        "optimum FAILED: not made: No matching distribution",
    ):
        assert line in text.splitlines(), text


def test_the_command_goes_on_without_who_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise ExportFailed("No matching distribution found for optimum-onnx")

    monkeypatch.setattr(peers_entrants, "make_environment", refuse)
    file = tmp_path / "figures.json"
    options = ["--work", str(tmp_path), "--size", "tiny", "--bundles", "", "--peers", "optimum"]
    ended = CliRunner().invoke(main, [*options, "--rounds", "1", "--json", str(file)])
    assert ended.exit_code == 0, ended.output
    assert "optimum FAILED: not made: No matching distribution" in ended.output
    assert json.loads(file.read_text())["contenders"]["optimum"]["tool"] == "optimum-onnx 0.1.0"


def test_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["--work", str(tmp_path / "none"), "--peers", "llama"])
    assert ended.exit_code == 2
    assert "is not one of llama.cpp-q4_0" in " ".join(ended.output.split())
    assert not (tmp_path / "none").exists()

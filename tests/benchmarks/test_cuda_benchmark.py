"""The check for a GPU on miniatures and on a CPU: what it finds, not how long anything takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_cuda import FakeCuda

from benchmarks.cuda import __main__ as command
from benchmarks.cuda import speed
from benchmarks.cuda.answers import Answers
from benchmarks.cuda.bundles import Made
from benchmarks.cuda.prompts import golden, golden_kept, questions
from benchmarks.cuda.record import Budget, Found, Part, Record
from benchmarks.cuda.refusals import MANY
from benchmarks.cuda.teacher_forcing import differences
from benchmarks.exports import Export, ExportFailed, watch
from benchmarks.measured_process import Contender, ContenderFailed, Running
from benchmarks.memory import Memory
from paligemma_onnx.runtime import PaliGemma, Request

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


# The whole of it, on this machine.


@pytest.fixture
def ready(
    monkeypatch: pytest.MonkeyPatch, shipped_bundle: Path, bundle: Folders, checkpoint: Folders
) -> None:
    """Bundles that are there already, in place of exports; and no transformers, which is slow to start."""

    class Ready:
        def __init__(self, *_: object) -> None:
            """Nothing is begun."""

        def shipped(self, precision: str) -> Made:
            if precision == "fp16":
                raise ExportFailed("the disk is full")
            return shipped_bundle, Export(1.0, Memory(), 1)

        def timed(self, precision: str) -> Made:  # noqa: ARG002
            return bundle(CASE), Export(2.0, Memory(), 1)

        def drawn(self) -> Path:
            return checkpoint(CASE)

        def stop(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr(command, "Bundles", Ready)
    monkeypatch.setattr(speed, "find_spec", lambda _: None)


def run(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    asked = ["--work", str(folder / "work"), "--json", str(folder / "found.json"), "--device", "cpu"]
    small = ["--scenes", "1", "--tokens", "3", "--rounds", "1", "--requests", "2", "--batches", "2"]
    ended = CliRunner().invoke(command.main, [*asked, "--size", "tiny", *small, *options])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.output
    return ended.exit_code, ended.output, json.loads((folder / "found.json").read_text())


@pytest.mark.usefixtures("ready")
def test_from_end_to_end(tmp_path: Path) -> None:
    code, said, found = run(tmp_path, "--compared", "fp32,fp16")
    assert code == 0, said
    assert found["passed"] is True
    assert {"machine", "plan", "seconds", "parts", "promises", "device"} <= set(found)
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert states == {
        **dict.fromkeys(("device", "correctness", "refusals", "bandwidth", "speed"), "done"),
        "compiled": "failed",
    }
    assert found["parts"]["compiled"]["why"] == "transformers is not installed, whose steps would be compiled"
    precisions = found["correctness"]["precisions"]
    assert precisions["fp32"]["share"] == 1.0
    assert precisions["fp16"] == {"failure": "the disk is full"}
    assert found["correctness"]["golden"] == {"answers": len(golden()), "kept": len(golden())}
    contenders = found["speed"]["contenders"]
    assert set(contenders) == {"fp32", speed.EAGER}
    for one in contenders.values():
        stages = ("vision_s", "prefill_s", "time_to_first_token_s", "token_s", "images_per_minute")
        wanted = {f"{stage}_{size}" for stage in stages for size in (1, 2)}
        assert wanted <= {name for name, value in one["medians"].items() if value > 0}
    assert found["speed"]["profiles"]["fp32"]["seen"] is False
    assert found["bandwidth"]["read_bytes_per_s"] > 0
    for words in ("| token at batch 2, ms |", "| reached |", "our own model in torch", "fp16 on cpu"):
        assert words in said


@pytest.mark.usefixtures("ready")
def test_a_run_without_time_says_so(tmp_path: Path) -> None:
    """Nothing is begun that does not fit, and what is not known has not passed."""
    code, said, found = run(tmp_path, "--budget", "4", "--compared", "fp32")
    assert (code, found["passed"]) == (6, False)
    assert {part["state"] for part in found["parts"].values()} == {"skipped"}
    assert "device: skipped, it needs about 5 s, and " in said
    assert "not known" in said


def test_the_device_is_named(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command.main, ["--work", str(tmp_path / "none"), "--device", "auto"])
    assert (ended.exit_code, (tmp_path / "none").exists()) == (2, False)


# Budget and record.


def test_parts_within_a_budget() -> None:
    """Each is done, fails or is skipped by itself; what was found before a failure stays."""
    now, stored = [0.0], list[Mapping[str, Any]]()
    record = Record(Budget(100.0, clock=lambda: now[0]), stored.append)

    def found(*seconds: float, fails: Exception | None = None) -> Callable[[], Iterator[Found]]:
        def work() -> Iterator[Found]:
            for number, one in enumerate(seconds):
                now[0] += one
                yield {"found": number + 1}
            if fails is not None:
                raise fails

        return work

    assert record.run(Part("first", 30, found(20, 20))).state == "done"
    assert record.run(Part("broken", 30, found(20, fails=ContenderFailed("it died")))).why == "it died"
    course = record.run(Part("long", 60, found(1)))
    assert (course.state, course.why) == ("skipped", "it needs about 60 s, and 40 s are left")
    assert record.run(Part("odd", 1, found(1, fails=KeyError("x")))).why == "KeyError: 'x'"
    assert record.run(Part("short", 30, found(30))).seconds == 30
    document = record.document()
    assert document["first"] == {"found": 2}
    assert document["broken"] == {"found": 1}
    assert "long" not in document
    assert len(stored) == 5 + 6 + 3  # how each ended, what each found, and one more where it begins
    assert record.budget.left() == 9


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    sleeping = Contender("sleeper", "subprocess", "run", {"args": ["sleep", "9"]})
    with pytest.raises(ContenderFailed, match="took longer than 1 s"):
        Running(sleeping, tmp_path / "log", limit_s=1.0)
    with pytest.raises(ExportFailed, match="took longer than 1 s"):
        watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", limit_s=0.6)


# Correctness.


def test_questions_are_golden_and_drawn() -> None:
    every = questions(2)
    assert every[: len(golden())] == golden()
    kinds = {one.kind for one in every[len(golden()) :]}
    assert {"caption", "detect", "segment"} <= kinds
    assert [one.prompt for one in questions(2)] == [one.prompt for one in every]
    answers: list[tuple[int, ...]] = [one.golden or () for one in every]
    assert golden_kept(answers) == (len(golden()), len(golden()))
    assert golden_kept([(1,), *answers[1:]]) == (len(golden()), len(golden()) - 1)


def test_a_token_that_is_another_is_found(shipped_bundle: Path) -> None:
    """Where answers are its own there is no difference; a changed token is one, and what it leads to."""
    model, asked = PaliGemma.load(shipped_bundle, device="cpu"), golden()[:3]
    requests = [Request(one.picture, one.prompt) for one in asked]
    answers = [list(one.golden or ()) for one in asked]
    tokens = sum(map(len, answers))
    assert differences(model, requests, answers, 96) == (tokens + 3, [])
    assert differences(model, requests[:1], [answers[0][:4]], 4) == (4, [])  # cut, so no stop id follows
    right, answers[1][0] = answers[1][0], answers[1][0] + 40
    compared, found = differences(model, requests, answers, 96)
    assert compared == tokens + 3
    assert (found[0].row, found[0].position, found[0].said, found[0].told) == (1, 0, right, right + 40)
    assert found[0].gap > 0
    assert {one.row for one in found} == {1}


def test_zeros_do_not_agree(shipped_bundle: Path) -> None:
    """As a GPU that computes nothing would answer."""
    answers = Answers(str(shipped_bundle), "cpu", 1)
    runner = answers._model.runner

    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return getattr(runner, name)

        def prefill(self, *asked: Any) -> Any:
            logits, cache = runner.prefill(*asked)
            return logits * 0, cache

        def decode(self, *asked: Any) -> Any:
            logits, cache = runner.decode(*asked)
            return logits * 0, cache

    right = answers.answers()
    answers._model.runner = Nothing()
    found = answers.agreement(right)
    assert found["agreed"] == 0
    assert found["ties"] == found["tokens"]


# On the device that is not there.

LOOK = """
import json, sys
sys.path.insert(0, "")
from benchmarks.cuda.device import Device
from benchmarks.cuda.memory_growth import Growth
from benchmarks.cuda.refusals import Refusals
bundle = sys.argv[1]
print(json.dumps({
    "facts": Device("cuda").facts(),
    "growth": Growth(bundle, "cuda").over(40),
    "refusals": Refusals(bundle, "cuda").too_little_memory(),
}))
"""


def test_memory_and_refusals_of_a_hollow_device(gpu_python: FakeCuda, shipped_bundle: Path) -> None:
    ended = gpu_python.script(LOOK, shipped_bundle, FAKE_CUDA_MEMORY=2 << 30)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["facts"]["gpu"] == "FakeCuda 0"
    assert 0 < found["facts"]["free_bytes"] <= found["facts"]["memory_bytes"] == 2 << 30
    weights = sum(file.stat().st_size for file in shipped_bundle.glob("*.data"))
    assert found["growth"]["first_bytes"] > weights / 2
    assert len(found["growth"]["device_bytes"]) == 10
    assert [one["code"] for one in found["refusals"]] == [5, 0, 5, 0], (MANY, found["refusals"])

"""The GPU benchmark without a GPU: its arithmetic, its budget and its report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_cuda import FakeCuda

from benchmarks.cuda import __main__ as command
from benchmarks.cuda.checks import full_size_checks, passed, read_tests, table_of_checks
from benchmarks.cuda.prompts import all_prompts, count_golden, golden_prompts
from benchmarks.cuda.steps import Run, Step
from benchmarks.cuda.teacher_forcing import differences, token_agreement
from benchmarks.cuda.transfers import summarize
from benchmarks.exports import Export
from benchmarks.memory import Memory
from benchmarks.report import Bounds
from benchmarks.results import Result
from paligemma_onnx.runtime import PaliGemma, Request

JUNIT = """<testsuites><testsuite name="pytest">
<testcase name="test_tokens[bf16]" time="2.4">
<properties><property name="share" value="99.2%"/></properties></testcase>
<testcase name="test_memory" time="1.0">
<failure message="AssertionError: 5 != 0&#10;more">trace</failure></testcase>
<testcase name="test_copies" time="0.1"><skipped message="one GPU only"/></testcase>
</testsuite></testsuites>"""


def python(name: str, code: str, least_s: float = 0.0) -> Step:
    return Step(name, (sys.executable, "-c", code), least_s)


@pytest.mark.slow
def test_steps_share_a_budget(tmp_path: Path) -> None:
    """A step that fails or exceeds the budget does not keep the others from running."""
    run = Run(20.0, tmp_path)
    run.do(python("good", "pass"), python("bad", "raise ValueError('no space')"))
    run.do(python("slow", "import time; time.sleep(60)"), share=0.15)
    run.do(python("long", "pass", least_s=100))
    outcomes = {name: (outcome.state, outcome.why) for name, outcome in run.outcomes.items()}
    assert outcomes.pop("long")[0] == "skipped"
    assert outcomes == {
        "good": ("done", None),
        "bad": ("failed", "ValueError: no space"),
        "slow": ("failed", "the time budget is spent"),
    }
    assert "the step needs about 100 s" in str(run.outcomes["long"].why)


def test_outcomes_of_tests(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    assert read_tests(file) == []
    file.write_text(JUNIT)
    tokens, memory, copies = checks = read_tests(file)
    assert (tokens.passed, tokens.measured) == (True, "2 s, share 99.2%")
    assert (memory.passed, memory.measured) == (False, "AssertionError: 5 != 0")
    assert (copies.passed, copies.required, copies.measured) == (None, False, "skipped: one GPU only")
    assert not passed(checks)
    assert passed([tokens, copies])
    assert "| test_memory | AssertionError: 5 != 0 | pass | missed |" in table_of_checks(checks)


def results(loaded: int) -> dict[str, Result]:
    """Return results in which every figure is at its target."""

    def result(name: str, step_s: float, first_s: float, **fields: Any) -> Result:
        figures = {"step_s_1": step_s, "time_to_first_token_s": first_s, "device_bytes_loaded": loaded}
        return Result(name, rounds=[figures], **fields)

    export = Export(1.0, Memory(), 6 * 10**9)
    return {
        "bf16": result("bf16", 0.004, 0.0699, export=export, decoder_bytes=5 * 10**9),
        "transformers bf16": result("transformers bf16", 0.012, 0.1),
    }


@pytest.mark.parametrize(
    ("loaded", "read_bytes_per_s", "missed"),
    [
        (8_500_000_000, 2e12, set()),
        (8_500_000_001, 2e12, {"bf16: GPU memory, loaded"}),
        (8_500_000_000, 2.1e12, {"bf16: decode step / lower bound"}),
    ],
)
def test_checks_of_a_full_size_model(loaded: int, read_bytes_per_s: float, missed: set[str]) -> None:
    checks = list(full_size_checks(results(loaded), Bounds(read_bytes_per_s, 1e15, 1), ["bf16"]))
    assert [check.name for check in checks] == [
        "bf16: GPU memory, loaded",
        "bf16: decode step / lower bound",
        "bf16: tokens/s / transformers bf16",
        "bf16: time to first token / transformers bf16",
    ]
    measured = [check.measured for check in checks]
    assert measured[2:] == ["3.00", "0.70"]
    assert {check.name for check in checks if not check.passed} == missed
    # Only memory is required.
    assert passed(checks) == ("bf16: GPU memory, loaded" not in missed)


def test_what_is_not_measured_has_not_passed() -> None:
    checks = list(full_size_checks({"bf16": Result("bf16", failure="out of memory")}, None, ["bf16", "fp16"]))
    assert {check.passed for check in checks} == {None}
    assert [check.measured for check in checks if check.required] == ["out of memory", "not measured"]
    assert not passed(checks)


def test_copies_of_a_trace() -> None:
    """Two steps, with 4 bytes of logits each."""
    events: list[dict[str, Any]] = [
        {"cat": "kernel", "name": "gemm", "dur": 30},
        {"cat": "kernel", "name": "gemm", "dur": 50},
        {"cat": "kernel", "name": "norm", "dur": 4},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 8}},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)", "args": {"bytes": 32}},
    ]
    step = summarize(events, 2, 4)
    assert step["seen"] is True
    assert (step["to_host_bytes"], step["to_device_bytes"], step["on_device_bytes"]) == (4, 16, 0)
    assert (step["kernels"], step["kernels_s"]) == (1.5, pytest.approx(42e-6))
    assert step["longest"][0] == {"kernel": "gemm", "times": 1.0, "s": pytest.approx(40e-6)}
    assert summarize(events[:3], 2, 4)["seen"] is False  # without the logits nothing is known


def test_questions_are_golden_and_drawn() -> None:
    prompts = all_prompts(2)
    assert prompts[: len(golden_prompts())] == golden_prompts()
    assert {"caption", "detect", "segment"} <= {prompt.kind for prompt in prompts[len(golden_prompts()) :]}
    assert [prompt.text for prompt in all_prompts(2)] == [prompt.text for prompt in prompts]
    answers = [prompt.golden or () for prompt in prompts]
    assert count_golden(answers) == (len(golden_prompts()), len(golden_prompts()))
    assert count_golden([(1,), *answers[1:]]) == (len(golden_prompts()), len(golden_prompts()) - 1)


def test_a_token_that_is_another_is_found(shipped_bundle: Path) -> None:
    """A model's own answers have no difference; a changed token is one, and so may be those after it."""
    model, prompts = PaliGemma.load(shipped_bundle, device="cpu"), golden_prompts()[:3]
    requests = [Request(prompt.image, prompt.text) for prompt in prompts]
    answers = [list(prompt.golden or ()) for prompt in prompts]
    tokens = sum(map(len, answers))
    assert differences(model, requests, answers, 96) == (tokens + 3, [])
    assert differences(model, requests[:1], [answers[0][:4]], 4) == (4, [])  # truncated: no stop id follows
    actual, answers[1][0] = answers[1][0], answers[1][0] + 40
    compared, found = differences(model, requests, answers, 96)
    assert compared == tokens + 3
    first = found[0]
    assert (first.row, first.position, first.actual, first.expected) == (1, 0, actual, actual + 40)
    assert first.gap > 0
    assert {difference.row for difference in found} == {1}


def test_zeros_do_not_agree(shipped_bundle: Path) -> None:
    """A GPU that computes nothing returns zeros, in which every token ties."""
    model, prompts = PaliGemma.load(shipped_bundle, device="cpu"), golden_prompts()[:4]
    runner = model.runner

    class ZeroRunner:
        def __getattr__(self, name: str) -> Any:
            return getattr(runner, name)

        def prefill(self, *arguments: Any) -> Any:
            logits, cache = runner.prefill(*arguments)
            return logits * 0, cache

        def decode(self, *arguments: Any) -> Any:
            logits, cache = runner.decode(*arguments)
            return logits * 0, cache

    zeros: Any = ZeroRunner()
    broken = PaliGemma(model.manifest, model.tokenizer, zeros, model.load_s)
    agreement = token_agreement(broken, prompts, [prompt.golden or () for prompt in prompts])
    assert agreement["agreed"] == 0
    assert agreement["ties"] == agreement["tokens"]


TIMING = """
import json, sys
sys.path.insert(0, "")
from benchmarks.cuda.bundle_timing import CudaBundle
bundle = CudaBundle(sys.argv[1], 3, "cuda")
bundle.warm_up([1, 2])
print(json.dumps(bundle.round([1, 2], [20, 300])))
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_round_of_a_bundle_on_a_gpu(gpu_python: FakeCuda, cuda_bundle: Any, precision: str) -> None:
    """On the fake CUDA runtime, with growing and with pooled caches."""
    ended = gpu_python.script(TIMING, cuda_bundle("gemma2_window", precision))
    assert ended.code == 0, ended.err
    metrics = json.loads(ended.out)
    assert metrics["device_bytes_loaded"] > 0
    assert metrics["device_bytes_2"] >= metrics["device_bytes_loaded"]
    assert {
        "load_s",
        "prefill_s",
        "prefill_s_batch_2",
        "step_s_2",
        "step_s_past_20",
        "step_s_past_300",
    } <= set(metrics)
    assert all(value > 0 for value in metrics.values())


def test_the_device_is_named(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command.main, ["--work", str(tmp_path / "none"), "--device", "auto"])
    assert (ended.exit_code, (tmp_path / "none").exists()) == (2, False)


def test_a_run_without_time_says_so(tmp_path: Path) -> None:
    """Steps that need more time than is left are skipped, and an unknown check has not passed."""
    file = tmp_path / "figures.json"
    options = ["--work", str(tmp_path / "work"), "--json", str(file), "--budget", "4"]
    ended = CliRunner().invoke(command.main, [*options, "--device", "cpu", "--size", "tiny"])
    assert ended.exit_code == 6, ended.output
    document = json.loads(file.read_text())
    assert {step["state"] for step in document["steps"].values()} == {"skipped"}
    assert document["passed"] is False
    assert "| tests | the step needs about 30 s" in ended.output

"""Bundles on a GPU: tokens, copies, memory and errors.

Tests with the marker `gpu` need an NVIDIA GPU (`make test-gpu`, or `python -m benchmarks.cuda`). Those of the
fixture `gpu` also run on the fake CUDA runtime, with the marker `cuda`; what only that runtime can provoke or
count is tested in the other files of this folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu import Gpu, gpu, real, shipped
from paths import SCENE

from benchmarks.cuda.prompts import all_prompts, count_golden, golden_prompts
from benchmarks.cuda.teacher_forcing import answers_of, token_agreement
from paligemma_onnx.export.validation.float32_emulation import open_float32_emulation
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

__all__ = ["gpu", "real", "shipped"]  # found here by pytest

HALF = ("bf16", "fp16", "int4-bf16")
REQUIRED_SHARE = {"fp32": 1.0, "bf16": 0.99}  # of fp32's tokens; that of other precisions is only reported
SCENES = 120  # drawn, about six prompts each
ROWS, TOKENS = 2, 12
MAX_GROWTH = 2 << 20  # bytes: the size in which a driver allocates
MAX_LEFT = 16 << 20  # bytes that a deleted model leaves to CUDA
MAX_CACHE_SHARE = 0.01  # of a cache's bytes: other copies of a step are ids and lengths
MAX_RUNS = 3  # of a decode graph until it is captured
MANY = 512  # rows, more than fit
SMALL_LIMIT = 192 << 20  # bytes: enough for the shipped model and one image, not for MANY
DRIVER_MB = 16  # by which the driver's count of a few allocations may differ from their size
BOOKKEEPING = 4096  # bytes: prompts, ids, lengths


def generate(bundle: Path, *options: object) -> tuple[object, ...]:
    """Return the arguments of a short `paligemma-onnx generate`."""
    return ("generate", "--model", bundle, "--image", SCENE, "--max-new-tokens", 2, *options, "caption en")


# Tokens.


def emulated(folder: Path) -> PaliGemma:
    """Load a bundle for GPUs in the emulation on the CPU that checks exports."""
    manifest, placement = read_manifest(folder), choose_placement("cpu", None)
    graphs = (manifest.graphs.vision_encoder, manifest.graphs.prefill, manifest.graphs.decode)
    vision, prefill, decode = (open_float32_emulation(folder, graph, placement) for graph in graphs)
    runner = OnnxModelRunner(None, manifest, placement, vision, prefill, decode, None)
    return PaliGemma(manifest, PromptTokenizer.load(folder / manifest.tokens.file), runner, 0.0)


def record(agreement: dict[str, Any], precision: str, property_of: Callable[[str, object], None]) -> None:
    """Record an agreement for the report, and require the share that its precision promises."""
    for name, value in agreement.items():
        property_of(name, f"{value:.4%}" if name == "share" else json.dumps(value))
    assert agreement["agreed"] >= REQUIRED_SHARE.get(precision, 0) * agreement["tokens"]


@pytest.fixture(scope="module")
def answers(shipped: Callable[[str], Path]) -> list[list[int]]:
    """Return the answers of fp32 on the CPU to the golden prompts and those about drawn scenes."""
    return answers_of(PaliGemma.load(shipped("fp32"), device="cpu"), all_prompts(SCENES))


@pytest.mark.gpu
@pytest.mark.usefixtures("real")
def test_fp32_on_the_cpu_gives_the_golden_answers(answers: list[list[int]]) -> None:
    assert count_golden(answers) == (len(golden_prompts()),) * 2


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", *HALF])
def test_tokens_are_those_of_fp32_on_the_cpu(
    real: Gpu,
    answers: list[list[int]],
    tmp_path: Path,
    precision: str,
    record_property: Callable[[str, object], None],
) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers))
    agreement = real.probe("agreement", bundle=real.bundle(precision), answers=file, scenes=SCENES)
    record(agreement, precision, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_on_the_cpu(
    shipped: Callable[[str], Path], precision: str, record_property: Callable[[str, object], None]
) -> None:
    """Without a GPU: fp32 agrees with itself, and half precision, emulated, as it should on a GPU."""
    prompts, reference = all_prompts(1), PaliGemma.load(shipped("fp32"), device="cpu")
    answers = answers_of(reference, prompts)
    assert count_golden(answers) == (len(golden_prompts()),) * 2
    model = reference if precision == "fp32" else emulated(shipped(precision))
    record(token_agreement(model, prompts, answers), precision, record_property)


# CUDA graphs and copies.


@pytest.mark.parametrize("precision", [*HALF, "fp32"])
def test_decode_steps_are_captured_once_and_copy_nothing(gpu: Gpu, precision: str) -> None:
    """A step is captured per batch size and replayed after that; no node copies to or from the CPU."""
    rows = [1, 1, 2, 1]
    ran = gpu.probe("node_runs", bundle=gpu.bundle(precision), rows=rows, tokens=TOKENS)
    assert ran["copies"] == []
    assert ran["nodes"] > 20
    if precision == "fp32":  # whose cache grows, so that no step can be captured
        assert ran["runs"] == len(rows) * (TOKENS - 1)
    else:
        assert ran["runs"] <= MAX_RUNS * len(set(rows))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "int4-bf16", "fp32"])
def test_requests_copy_logits_and_inputs_only(real: Gpu, precision: str) -> None:
    """To the CPU: the logits of each token. From it: pixels, prompts, a token and a length per row."""
    copied = real.probe("transfers", bundle=real.bundle(precision), rows=ROWS, tokens=TOKENS)
    if copied.get("to_host_bytes", 0) < copied.get("logits", 1):
        pytest.skip(f"CUPTI's records are incomplete: {copied}")
    assert copied["to_host_bytes"] == copied["logits"]
    assert copied["pixels"] < copied["to_device_bytes"] < copied["pixels"] + BOOKKEEPING
    if copied["in_place"]:
        assert copied["on_device_bytes"] < 2 * copied["features"]
        assert copied["graph_launches"] == TOKENS - 1


@pytest.mark.gpu
def test_a_step_does_not_copy_the_cache(real: Gpu, record_property: Callable[[str, object], None]) -> None:
    step = real.probe("step_transfers", bundle=real.bundle("bf16"), rows=8, count=50)
    record_property("step", json.dumps(step))
    if not step["seen"]:
        pytest.skip(step["why"])
    moved = max(0.0, step["to_host_bytes"] - step["logits_bytes"]) + step["to_device_bytes"]
    assert moved <= MAX_CACHE_SHARE * step["cache_bytes"]


# Memory.


def test_memory_stays_level_over_requests(gpu: Gpu, record_property: Callable[[str, object], None]) -> None:
    requests = 1000 if gpu.is_real else 40
    memory = gpu.probe("growth", bundle=gpu.bundle("bf16"), requests=requests, tokens=4)
    record_property("memory", json.dumps(memory))
    taken = memory["taken"]
    assert len(taken) == 10
    assert taken[0] > gpu.bundle("bf16").joinpath("decoder.data").stat().st_size
    assert taken[-1] - taken[0] <= MAX_GROWTH


def test_a_gpu_memory_limit_is_kept(gpu: Gpu) -> None:
    """Loading and requests beyond the limit fail, and the next request does not."""
    bundle = gpu.bundle("bf16")
    too_small = (bundle / "decoder.data").stat().st_size // 2
    ended = gpu.probe("limits", bundle=bundle, load_limit=too_small, limit=SMALL_LIMIT, rows=MANY)
    codes = [ended[name][0] for name in ("load", "one", "many", "again")]
    assert codes == [5, 0, 5, 0], ended
    for name in ("load", "many"):
        assert "out of the GPU memory that is allowed" in ended[name][1]
    result = gpu.command(*generate(bundle, "--device", gpu.device, "--gpu-memory", too_small))
    assert (result.code, result.out) == (5, "")
    assert "out of the GPU memory that is allowed" in result.error


def test_out_of_gpu_memory(gpu: Gpu) -> None:
    """A request or a load that finds no memory fails; the next request succeeds once there is some."""
    ended = gpu.probe("out_of_memory", bundle=gpu.bundle("bf16"), left=32 << 20, rows=MANY)
    assert [ended[name][0] for name in ("many", "one", "load", "again")] == [5, 0, 5, 0], ended
    for name in ("many", "load"):
        assert "out of GPU memory" in ended[name][1]


@pytest.mark.parametrize(
    ("limit", "taken", "left"), [(None, [600, 700, 750], 50), (710, [600, 700, -1], 100)]
)
def test_allocations_next_to_sessions(gpu: Gpu, limit: int | None, taken: list[int], left: int) -> None:
    """Buffers are as large as requested, count towards the limit, and are freed but for the last block."""
    ended = gpu.probe("allocations", limit=limit)
    assert ended["taken"] == pytest.approx(taken, abs=DRIVER_MB)
    assert ended["left"] == pytest.approx(left, abs=DRIVER_MB)


def test_threads_use_the_gpu_at_the_same_time(gpu: Gpu) -> None:
    ended = gpu.probe("threads", bundle=gpu.bundle("bf16"), tokens=5)
    assert ended["together"] == ended["alone"] * 6


def test_interrupts_leave_the_gpu_usable(gpu: Gpu, record_property: Callable[[str, object], None]) -> None:
    """A capture is completed before Ctrl-C ends a request; a deleted model leaves no memory."""
    delays = [0.001, 0.01, 0.05, 0.2]
    ended = gpu.probe("interrupts", bundle=gpu.bundle("bf16"), delays=delays, tokens=TOKENS)
    record_property("interrupted", ended["interrupted"])
    assert ended["answers"] == [ended["expected"]] * 2 * len(delays)
    assert ended["left"] <= MAX_LEFT


# Devices and errors.


def test_the_requested_gpu_is_used(gpu: Gpu) -> None:
    for name in {gpu.device, "cuda:0"} if gpu.device == "cuda" else {gpu.device}:
        ended = gpu.probe("load", bundle=gpu.bundle("fp32"), device=name)
        assert (ended["code"], ended["device"]) == (0, ["cuda" if name == "cuda:0" else name])


def test_a_missing_gpu_is_reported(gpu: Gpu) -> None:
    result = gpu.command(*generate(gpu.bundle("fp32"), "--device", "cuda:99"))
    assert (result.code, result.out) == (4, "")
    assert "there is no GPU 99, only cuda" in result.error


@pytest.mark.gpu
def test_hidden_gpus_are_reported(real: Gpu) -> None:
    """By `--device cuda`, by the command that uses the CPU instead, and for a bundle that needs a GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    message = "the NVIDIA driver has no GPU to offer"
    result = real.command(*generate(real.bundle("fp32"), "--device", "cuda"), **hidden)
    assert (result.code, result.out) == (4, "")
    assert message in result.error
    assert "CUDA_VISIBLE_DEVICES is '-1'" in result.error
    result = real.command(*generate(real.bundle("fp32"), "--json"), **hidden)
    assert (result.code, json.loads(result.out)["device"]) == (0, "cpu")
    assert message in result.err
    result = real.command(*generate(real.bundle("bf16")), **hidden)
    assert (result.code, result.out) == (4, "")
    assert message in result.error


@pytest.mark.gpu
def test_a_library_that_does_not_load_is_named(real: Gpu, tmp_path: Path) -> None:
    """An empty file is found first and is not a library."""
    (tmp_path / "libcurand.so.10").touch()
    path = f"{tmp_path}:{real.env.get('LD_LIBRARY_PATH', '')}"
    result = real.command(*generate(real.bundle("fp32"), "--device", "cuda"), LD_LIBRARY_PATH=path)
    if result.code == 0:
        pytest.skip("onnxruntime loads libcurand from Python's packages, not from LD_LIBRARY_PATH")
    assert (result.code, result.out) == (4, "")
    assert "libcurand.so.10 not found" in result.error


def test_the_doctor_describes_the_gpu(gpu: Gpu, record_property: Callable[[str, object], None]) -> None:
    facts = gpu.probe("facts")
    record_property("facts", json.dumps(facts))
    assert 0 < facts["free_bytes"] <= facts["memory_bytes"]
    result = gpu.command("doctor", "--json")
    report = json.loads(result.out)
    described = {"name": facts["gpu"], "memory_bytes": facts["memory_bytes"], "compute": facts["compute"]}
    assert (result.code, report["unusable"]) == (0, {})
    assert described in report["gpus"]
    assert "cuda" in report["devices"]


@pytest.mark.gpu
def test_a_gpu_without_bfloat16_is_reported(real: Gpu) -> None:
    major, minor = real.probe("facts")["compute"]
    if major >= 8:
        pytest.skip(f"compute capability {major}.{minor} has bfloat16")
    result = real.command(*generate(real.bundle("bf16"), "--device", real.device))
    assert result.code == 4
    assert "bfloat16 needs 8.0; export again with --precision fp16" in result.error
    assert real.command(*generate(real.bundle("fp16"), "--device", real.device)).code == 0

"""The benchmark harness with miniatures: what is measured and how figures are computed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import hardware_limits, plot
from benchmarks.bundle import Bundle
from benchmarks.checkpoint import make_checkpoint
from benchmarks.exports import (
    Export,
    ExportFailed,
    precisions_for,
    read_cost,
    run_measured,
    write_cost,
)
from benchmarks.lower_bounds import (
    LOOKUPS,
    decode_bound_s,
    prefill_bound_s,
    prefill_operations,
    weight_bytes,
)
from benchmarks.measured_process import MeasuredProcess, ProcessFailed, ProcessSpec, describe_exit
from benchmarks.memory import Memory, PeakSampler, process_memory
from benchmarks.metrics import step_at_past
from benchmarks.processor_load import LoadMeter
from benchmarks.real_size import main
from benchmarks.reference import Reference
from benchmarks.rounds import persistent_processes
from benchmarks.sizes import FAMILIES, Family, benchmark_model
from paligemma_onnx.export.validation.transformers_reference import TransformersReference
from paligemma_onnx.model import presets
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.diagnostics.benchmark import images_for
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_random_checkpoint_is_one_model_to_us_and_to_transformers(work: Path, family: Family) -> None:
    """In float32, with a bidirectional prefix; the two sum in a different order."""
    model = benchmark_model(family, "tiny", 224)
    folder = make_checkpoint(work, model)
    config, checkpoint = open_checkpoint(folder)
    assert config == model.config
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 0 < stored - 2 * sum(weight.numel() for weight in meta_model(config).parameters()) < 50_000
    assert PromptTokenizer.load(folder / "tokenizer.json").image_id == config.image_token_index
    models = load_model(config, checkpoint), TransformersReference(folder)
    pixels = torch.rand(1, 3, 18, 18) * 2 - 1
    ids, lengths = torch.tensor([[2, 300, 301, 302]]), torch.tensor([4])
    with torch.no_grad():
        logits = [model.prefill(ids, model.encode_image(pixels), lengths)[0].float() for model in models]
    assert logits[0].std() > 0.01
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)

    changed = (folder / "config.json").stat().st_mtime_ns
    assert make_checkpoint(work, model) == folder
    assert (folder / "config.json").stat().st_mtime_ns == changed


def test_transformers_is_asked_as_our_model_answers(work: Path) -> None:
    """The stages of the measured reference give the ids of this project's model."""
    folder = make_checkpoint(work, benchmark_model("paligemma", "tiny", 224))
    reference = Reference(str(folder), 4, "fp32", 1)
    (image,) = images_for(None, 1)
    pixels = torch.from_numpy(reference.pixels(image))[None]
    config, checkpoint = open_checkpoint(folder)
    model = load_model(config, checkpoint)
    with torch.inference_mode():
        ids, state = reference.prefill(reference.encode(pixels))
        prompt, features = torch.tensor([reference.prompt]), model.encode_image(pixels)
        logits, cache = model.prefill(prompt, features, torch.tensor([prompt.shape[1]]))
        for number in range(4):
            assert int(ids) == int(logits.argmax())
            past = torch.tensor([features.shape[1] + prompt.shape[1] + number])
            logits, cache = model.decode_step(ids, past, cache)
            ids, state = reference.step(ids, state)
    cost = reference.ask([image])
    assert (cost.tokens, reference.round([1, 2], []).keys() >= {"step_s_2", "prefill_s"}) == (4, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "engine"),
    [("bundle", "onnxruntime"), ("bundle", "openvino"), ("in_place_bundle", "onnxruntime")],
)
def test_a_round_of_a_bundle(kind: str, engine: str, request: pytest.FixtureRequest) -> None:
    folder: Folders = request.getfixturevalue(kind)
    process = Bundle(str(folder(CASE)), 3, 1, engine=engine)
    process.warm_up([1])
    metrics = process.round([1, 2], [20, 300])
    assert {"load_s", "vision_s", "prefill_s", "own_share", "step_s_2", "images_per_minute_2"} <= set(metrics)
    assert {step_at_past(20), step_at_past(300)} <= set(metrics)
    assert all(np.isfinite(value) and value > 0 for value in metrics.values())


def test_a_contender_answers_fails_and_dies_alone(bundle: Folders, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = {"folder": str(bundle(CASE)), "threads": 1, "tokens": 2}
    spec = ProcessSpec("one", "benchmarks.bundle", "Bundle", arguments)
    with MeasuredProcess(spec, log, sample_memory=True) as process:
        assert process.call("round", batches=[1], pasts=[])["vision_s"] > 0
        with pytest.raises(ProcessFailed, match="TypeError"):
            process.call("round")
        peak = process.peak_memory()
        assert min(peak.anonymous, peak.file, peak.resident, peak.proportional) > 1_000_000
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ProcessFailed, match="memory runs out"):
            process.call("warm_up", batches=[1])
    absent = ProcessSpec("none", "benchmarks.bundle", "Bundle", arguments | {"folder": "absent"})
    with pytest.raises(ProcessFailed, match="no such file"):
        MeasuredProcess(absent, log)
    assert "Traceback" in log.read_text()


def test_how_a_process_ended() -> None:
    assert "memory" in describe_exit(-9)
    assert describe_exit(-11) == "its process ended with SIGSEGV"
    assert describe_exit(3) == "its process ended with code 3"


def test_memory_of_a_process() -> None:
    sampler = PeakSampler(os.getpid())
    sampler.start()
    before = sampler.sample()
    array = np.ones(20_000_000, np.uint8)
    assert sampler.sample().anonymous >= before.anonymous
    assert sampler.stop().resident > len(array)
    assert 0 < before.proportional <= before.resident
    assert process_memory(2**22 + 1, proportional=True) == Memory()  # above the largest process id
    assert Memory(1, 5, 2, 4).maximum(Memory(3, 0, 3, 0)) == Memory(3, 5, 3, 4)


def test_processor_time_of_this_process_is_load_to_another() -> None:
    parent, own = LoadMeter(os.getppid()), LoadMeter(os.getpid())
    started = time.process_time()
    while time.process_time() - started < 0.1:  # ten ticks of the kernel's clock
        pass
    assert parent.other_processors() > 0
    assert own.other_processors() >= 0


def test_default_precisions_run_on_the_device() -> None:
    assert set(precisions_for("cpu")) == {"fp32", "int8", "int4", "int4-compact", "int4-portable"}
    assert set(precisions_for("cuda:1")) == {"fp32", "bf16", "fp16", "int4-bf16"}


def test_lower_bounds_by_hand() -> None:
    assert decode_bound_s(5_000_000_000, 20e9) == 0.25
    assert prefill_bound_s(10**12, 5e11) == 2.0
    config = presets.paligemma_3b(224)
    # Gemma 2B: 1.98 billion weights in its layers, 0.53 billion in the head, by which the last position is
    # multiplied, and for every pair of tokens 18 layers with 8 heads of 256, twice.
    products = 264 * 1.98e9 + 0.53e9 + 264**2 * 18 * 8 * 256 * 2
    assert prefill_operations(config, 264) == pytest.approx(2 * products, rel=0.001)


@pytest.mark.parametrize("graph", ["decode", "prefill"])
def test_a_step_reads_the_decoder_once(bundle: Folders, graph: str, checkpoint: Folders) -> None:
    """The tied embedding and head count once; small constants of the graph are added."""
    decoder = meta_model(open_checkpoint(checkpoint(CASE))[0]).language_model
    weights = 4 * sum(weight.numel() for weight in decoder.parameters())
    assert weights <= weight_bytes(bundle(CASE) / f"{graph}.onnx") <= weights * 1.02
    assert "Gemm" not in LOOKUPS


def test_integer_product_is_the_product() -> None:
    session = hardware_limits.int8_session(64, 32, threads=1)
    values = np.random.default_rng(1).standard_normal((5, 64), dtype=np.float32)
    weights = np.random.default_rng(0).integers(-127, 128, (64, 32), dtype=np.int8) / np.float32(127)
    (product,) = session.run(None, {"x": values})
    # Activations have 256 steps over their range, here 6: each is off by 0.006 on average.
    assert np.abs(product - values @ weights).max() < 0.2


def test_a_published_tower_with_a_tiny_decoder() -> None:
    tower, tiny = benchmark_model("paligemma2", "vision", 896), benchmark_model("paligemma2", "tiny", 896)
    assert tower.name == "paligemma2-vision-896"
    assert tower.config.vision_config == presets.paligemma2_3b(896).vision_config
    assert tower.config.text_config == tiny.config.text_config


def test_the_smallest_processes_are_kept_if_the_largest_still_fits() -> None:
    needs = {"large": 7, "small": 2, "middle": 4}
    assert persistent_processes(needs, 13) == {"small", "middle", "large"}
    assert persistent_processes(needs, 12) == {"small"}
    assert persistent_processes(needs, 8) == frozenset()
    assert persistent_processes(needs, 1) == frozenset()


def test_notes_go_with_what_they_are_about(tmp_path: Path) -> None:
    cost = Export(1.5, Memory(anonymous=3), 7)
    write_cost(tmp_path / "model", cost)
    assert read_cost(tmp_path / "model") is None  # the model does not exist
    (tmp_path / "model").mkdir()
    assert read_cost(tmp_path / "model") == cost
    assert read_cost(tmp_path / "model", "other code") is None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no space')", "ValueError: no space"),
        ("import json; json.loads('x')", "json.decoder.JSONDecodeError: Expecting"),
        ("print('ERROR: No matching distribution'); exit(1)", "No matching distribution"),
        ("print('error: no space'); exit(5)", "no space"),
        ("import os; os.kill(os.getpid(), 9)", "memory runs out"),
        ("exit(3)", "its process ended with code 3"),
    ],
)
def test_how_a_command_failed(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(ExportFailed) as failed:
        run_measured([sys.executable, "-c", code], tmp_path / "log")
    assert message in str(failed.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precisions", "fp33"], "is not one of fp32"),
        (["--batches", "1,x"], "is not a list of numbers"),
        (["--plot", "plot.png"], "pip install '.[plot]'"),
        (["--device", "auto"], "choose cpu, cuda or cuda:N"),
        (["--openvino", "int4"], "is not one of fp32, int4-portable"),
        (["--precisions", "int4", "--openvino", "fp32"], "names fp32, which --precisions does not"),
        (["--device", "cuda", "--openvino", "fp32"], "--openvino runs on the CPU"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str) -> None:
    monkeypatch.setattr(plot, "is_installed", lambda: False)
    ended = CliRunner().invoke(main, ["--work", str(tmp_path / "none"), *options])
    assert ended.exit_code == 2
    assert message in " ".join(ended.output.split())
    assert not (tmp_path / "none").exists()

"""The benchmark harness on miniatures: what it measures with, not how long anything takes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import hardware_limits, plot
from benchmarks.bundle import Bundle
from benchmarks.checkpoint import make_checkpoint
from benchmarks.exports import known_precisions
from benchmarks.lower_bounds import LOOKUPS, decode_floor_s, prefill_floor_s, prefill_operations, weight_bytes
from benchmarks.measured_process import Contender, ContenderFailed, Running, how_it_ended
from benchmarks.memory import Memory, PeakWatch, process_memory
from benchmarks.metrics import step_at_past
from benchmarks.real_size import main
from benchmarks.reference import Reference
from benchmarks.report import BASELINE, Bounds, bounds, ratio, rows, table
from benchmarks.results import Result
from benchmarks.rounds import who_stays
from benchmarks.sizes import FAMILIES, Family, subject
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
    """In float32, with its prefix seen both ways; the sums of either are in another order."""
    wanted, written = subject(family, "tiny", 224), list[int]()
    folder = make_checkpoint(work, wanted, written.append)
    config, checkpoint = open_checkpoint(folder)
    assert config == wanted.config
    assert sum(written) == 2 * sum(weight.numel() for weight in meta_model(config).parameters())
    assert PromptTokenizer.load(folder / "tokenizer.json").image_id == config.image_token_index
    ours, theirs = load_model(config, checkpoint), TransformersReference(folder)
    pixels = torch.rand(1, 3, 18, 18) * 2 - 1
    ids, lengths = torch.tensor([[2, 300, 301, 302]]), torch.tensor([4])
    with torch.no_grad():
        logits = [one.prefill(ids, one.encode_image(pixels), lengths)[0].float() for one in (ours, theirs)]
    assert logits[0].std() > 0.01
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)

    make_checkpoint(work, wanted, written.append)  # there already
    assert make_checkpoint(work, wanted, lambda _: pytest.fail("written again")) == folder


def test_transformers_is_asked_as_our_model_answers(work: Path) -> None:
    """The stages of the measured reference give the ids of its own whole passes over all tokens so far."""
    folder = make_checkpoint(work, subject("paligemma", "tiny", 224), lambda _: None)
    reference = Reference(str(folder), "fp32", 1, 4)
    steps = list[torch.Tensor]()
    call = reference._call
    reference._call = lambda *args, **kwargs: steps.append(call(*args, **kwargs)) or steps[-1]  # type: ignore[method-assign, func-returns-value]
    cost = reference.ask(images_for(None, 1))
    assert (cost.images, cost.tokens, len(steps)) == (1, 4, 4)
    config, checkpoint = open_checkpoint(folder)
    model = load_model(config, checkpoint)
    features = model.encode_image(torch.from_numpy(reference._pixels(images_for(None, 1)[0]))[None])
    prompt = torch.tensor([reference._prompt])
    logits, cache = model.prefill(prompt, features, torch.tensor([prompt.shape[1]]))
    for number, step in enumerate(steps):
        assert int(step) == int(logits.argmax())
        past = torch.tensor([features.shape[1] + prompt.shape[1] + number])
        logits, cache = model.decode_step(step, past, cache)


def test_a_round_of_a_bundle(bundle: Folders) -> None:
    contender = Bundle(str(bundle(CASE)), 1, 3)
    contender.once()
    figures = contender.round([1, 2], [20, 300])
    assert {"vision_s", "prefill_s", "own_share", "step_s_2", "images_per_minute_2"} <= set(figures)
    assert {step_at_past(20), step_at_past(300)} <= set(figures)
    assert all(np.isfinite(value) and value > 0 for value in figures.values())


def test_a_contender_answers_fails_and_dies_alone(bundle: Folders, tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked = {"folder": str(bundle(CASE)), "threads": 1, "tokens": 2}
    with Running(Contender("one", "benchmarks.bundle", "Bundle", asked), log, watched=True) as running:
        assert running.call("round", batches=[1], pasts=[])["vision_s"] > 0
        with pytest.raises(ContenderFailed, match="max"):
            running.call("round", batches=[], pasts=[])
        peak = running.peak()
        assert min(peak.anonymous, peak.file, peak.resident, peak.proportional) > 1_000_000
        os.kill(running._process.pid, signal.SIGKILL)
        with pytest.raises(ContenderFailed, match="memory runs out"):
            running.call("once")
    with pytest.raises(ContenderFailed, match="no such file"):
        Running(Contender("none", "benchmarks.bundle", "Bundle", asked | {"folder": "absent"}), log)
    assert "Traceback" in log.read_text()


def test_how_a_process_ended() -> None:
    assert "memory" in how_it_ended(-9)
    assert how_it_ended(-11) == "its process ended with SIGSEGV"
    assert how_it_ended(3) == "its process ended with code 3"


def test_memory_of_a_process() -> None:
    watch = PeakWatch(os.getpid())
    watch.start()
    before = watch.look()
    held = np.ones(20_000_000, np.uint8)
    assert watch.look().anonymous >= before.anonymous
    assert watch.stop().resident > len(held)
    assert process_memory(2**22 + 1, proportional=True) == Memory()  # there is no such process
    assert Memory(1, 5, 2, 4).most(Memory(3, 0, 3, 0)) == Memory(3, 5, 3, 4)


def test_precisions_are_those_of_the_command() -> None:
    assert "fp32" in known_precisions()


def test_floors_by_hand() -> None:
    assert decode_floor_s(5_000_000_000, 20e9) == 0.25
    assert prefill_floor_s(10**12, 5e11) == 2.0
    config = presets.paligemma_3b(224)
    # Gemma 2B: 1.98 billion weights in its layers, 0.53 in the table that the last row is multiplied by, and
    # 18 times 8 heads of 256, twice, for every pair of tokens.
    products = 264 * 1.98e9 + 0.53e9 + 264**2 * 18 * 8 * 256 * 2
    assert prefill_operations(config, 264) == pytest.approx(2 * products, rel=0.001)


@pytest.mark.parametrize("graph", ["decode", "prefill"])
def test_a_step_reads_the_decoder_once(bundle: Folders, graph: str, checkpoint: Folders) -> None:
    """The table is head and embedding, and counts once; small constants of the graph come on top."""
    decoder = meta_model(open_checkpoint(checkpoint(CASE))[0]).language_model
    weights = 4 * sum(weight.numel() for weight in decoder.parameters())
    assert weights <= weight_bytes(bundle(CASE) / f"{graph}.onnx") <= weights * 1.02
    assert "Gemm" not in LOOKUPS


def test_integer_product_is_the_product() -> None:
    session = hardware_limits.int8_session(64, 32, threads=1)
    rows_ = np.random.default_rng(1).standard_normal((5, 64), dtype=np.float32)
    weights = np.random.default_rng(0).integers(-127, 128, (64, 32), dtype=np.int8) / np.float32(127)
    (found,) = session.run(None, {"x": rows_})
    # Activations have 256 steps over their range, here 6: each is off by 0.006 on average.
    assert np.abs(found - rows_ @ weights).max() < 0.2


def result(name: str, step_s: float, images: float) -> Result:
    figures = {"step_s_1": step_s, "images_per_minute_1": images, "prefill_s": 1.0}
    slower = {"step_s_1": step_s * 9, "images_per_minute_1": images, "prefill_s": 1.0}
    return Result(
        name, starts=[4.0, 2.0], rounds=[figures, slower, figures], peak=Memory(proportional=8 * 10**9)
    )


def test_ratios_say_how_many_times_as_good() -> None:
    assert ratio(0.1, 0.4, "less") == pytest.approx(4)
    assert ratio(30, 20, "more") == pytest.approx(1.5)
    assert ratio(None, 1, "less") is None
    assert ratio(1, None, "more") is None
    assert ratio(0, 1, "less") is None


def test_table_of_fixed_figures() -> None:
    ours, theirs = result("int4", 0.1, 30.0), result(BASELINE, 0.4, 20.0)
    ours.decoder_bytes = 10**9
    gone = Result("fp32", failure="its process was killed, as the system does when memory runs out")
    limit = Bounds(read_bytes_per_s=20e9, operations_per_s=1e12, prefill_operations=5 * 10**11)
    results = {one.name: one for one in (ours, gone, theirs)}
    text = table(results, rows([1], [264], limit), limit)
    lines = text.splitlines()
    assert lines[0] == f"| | int4 | fp32 | {BASELINE} |"
    for line in (
        "| first start, s | 4.00 (1.00x) | - | 4.00 |",
        "| memory, each page once, GB | 8.00 (1.00x) | - | 8.00 |",
        "| step at batch 1, s | 0.1000 (4.00x) | - | 0.4000 |",  # medians: one round was slow for all
        "| images a minute at batch 1 | 30.0 (1.50x) | - | 20.0 |",
        "| step's floor, s | 0.0500 | - | - |",
        "| step over its floor | 2.00 | - | - |",
        "| prefill over its floor | 2.00 | - | 2.00 |",
        "fp32 FAILED: its process was killed, as the system does when memory runs out",
    ):
        assert line in lines, text
    assert "264 slots" not in text  # nobody measured it


def test_bounds_take_the_faster_product() -> None:
    rates = {"read_bytes_per_s": 2e10, "bf16_operations_per_s": 8e11, "int8_operations_per_s": 2e12}
    assert bounds(Result("limits", rounds=[rates]), 7) == Bounds(2e10, 2e12, 7)
    assert bounds(Result("limits"), 7) is None


def test_the_smallest_stay_while_there_is_room_for_the_largest_of_the_others() -> None:
    needs = {"large": 7, "small": 2, "middle": 4}
    assert who_stays(needs, 13) == {"small", "middle", "large"}
    assert who_stays(needs, 12) == {"small"}
    assert who_stays(needs, 8) == frozenset()
    assert who_stays(needs, 1) == frozenset()


def test_the_command_reports_who_fails_and_goes_on(tmp_path: Path) -> None:
    """A contender that cannot load, and the machine's limits, which can be measured."""
    folder = tmp_path / "work"
    folder.mkdir()
    options = ["--work", str(folder), "--size", "tiny", "--precisions", "", "--rounds", "1"]
    broken = make_checkpoint(folder, subject("paligemma", "tiny", 224), lambda _: None)
    (broken / "model.safetensors.index.json").unlink()
    file = tmp_path / "figures.json"
    ended = CliRunner().invoke(main, [*options, "--reference", "bf16", "--json", str(file)])
    assert ended.exit_code == 0, ended.output
    assert f"{BASELINE} FAILED: " in ended.output
    found = json.loads(file.read_text())
    assert found["contenders"][BASELINE]["failure"]
    assert found["limits"]["medians"]["read_bytes_per_s"] > 0
    assert {"cpu", "flags", "memory_bytes", "versions"} <= set(found["machine"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precisions", "fp33"], "is not one of fp32"),
        (["--batches", "1,x"], "is not a list of numbers"),
        (["--plot", "plot.png"], "pip install '.[plot]'"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str) -> None:
    monkeypatch.setattr(plot, "is_installed", lambda: False)
    ended = CliRunner().invoke(main, ["--work", str(tmp_path / "none"), *options])
    assert ended.exit_code == 2
    assert words in " ".join(ended.output.split())
    assert not (tmp_path / "none").exists()

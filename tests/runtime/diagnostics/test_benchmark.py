"""The `bench` command: what it measures and reports. No test depends on how long anything takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import run_in_process
from paths import SCENE

from paligemma_onnx.runtime import OptionError, PaliGemma
from paligemma_onnx.runtime.diagnostics.benchmark import Benchmark, Cost, images_for, mean_seconds, peak_bytes
from paligemma_onnx.runtime.graphs.open_runner import ENGINES

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
COST = Cost(
    images=4,
    tokens=20,
    vision_s=0.3,
    prefill_s=1.0,
    time_to_first_token_s=2.3,
    token_s=0.1,
    overhead_s=0.002,
    total_s=4.0,
)


@pytest.fixture(scope="module")
def model(bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu")


def test_json_has_finite_positive_figures(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tokens", 3, "--rounds", 2, "--threads", 1, "--batches", "3,2", "--json")
    result = run_in_process(capsys, "bench", bundle(CASE), *options)
    assert result.code == 0, result.err
    assert result.err.splitlines() == ["round 1 of 2", "round 2 of 2"]
    measured = json.loads(result.out)
    facts = {"device": "cpu", "engine": "onnxruntime", "precision": "fp32"}
    expected = {"threads": 1, "rounds": 2, "tokens": 3, **facts}
    assert {name: measured[name] for name in expected} == expected
    assert set(measured["images_per_minute"]) == {"2", "3"}
    seconds = [value for name, value in measured.items() if name.endswith("_s")]
    assert len(seconds) == 5
    for value in (*seconds, *measured["images_per_minute"].values(), measured["tokens_per_second"]):
        assert math.isfinite(value)
        assert value > 0
    assert 0 < measured["own_share"] < 1
    assert measured["peak_bytes"] > 10_000_000


def test_openvino_can_be_measured(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--engine", "openvino", "--tokens", 3, "--rounds", 1, "--batches", "1", "--json")
    measured = json.loads(run_in_process(capsys, "bench", bundle(CASE), *options).out)
    assert (measured["engine"], measured["device"]) == ("openvino", "cpu")
    assert min(measured["vision_s"], measured["prefill_s"], measured["token_s"]) > 0
    assert 0 < measured["own_share"] < 1


def test_table_for_a_person(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    scene = SCENE
    result = run_in_process(
        capsys, "bench", bundle(CASE), "--image", scene, "--tokens", 2, "--rounds", 1, "--batches", "1"
    )
    assert result.code == 0
    first, *others = result.out.splitlines()
    assert "fp32, cpu, onnxruntime" in first
    assert [line[:16].strip() for line in others] == [
        *("load", "vision", "prefill", "first token", "decode", "Python overhead"),
        *("images/min", "peak memory"),
    ]


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (("--batches", "1;2"), "is not a list of numbers", 2),
        (("--batches", "0"), "not in the range 1 to 256", 2),
        (("--tokens", "1"), "not in the range", 2),
        (("--image", "absent.png"), "absent.png does not exist", 3),
    ],
)
def test_refused(
    bundle: Folders, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str, code: int
) -> None:
    result = run_in_process(capsys, "bench", bundle(CASE), *options)
    assert (result.code, result.out) == (code, "")
    assert words in result.error


def test_variables(
    bundle: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TOKENS": "2", "ROUNDS": "1", "BATCHES": "1", "JSON": "1"}.items():
        monkeypatch.setenv(f"PALIGEMMA_ONNX_BENCH_{name}", value)
    measured = json.loads(run_in_process(capsys, "bench", bundle(CASE)).out)
    assert (measured["tokens"], measured["rounds"]) == (2, 1)


def test_a_stop_id_ends_nothing_and_the_ids_before_it_are_the_same(model: PaliGemma) -> None:
    """A model whose second token is a stop id, which ends a normal answer there."""
    image = images_for(None, 1)[0]
    ids = model.generate(image, "caption en", max_new_tokens=6).token_ids
    assert len(ids) == 6
    tokens = replace(model.manifest.tokens, stop=(ids[1],))
    manifest = replace(model.manifest, tokens=tokens)
    stopping = PaliGemma(manifest, model.tokenizer, replace(model.runner, manifest=manifest), 0.0)  # type: ignore[type-var]
    assert len(stopping.generate(image, "caption en", max_new_tokens=6).token_ids) < 6
    assert Benchmark(stopping).measure([image], "caption en", 6).tokens == 6
    assert stopping.manifest.tokens.stop == (ids[1],)  # the measured model is unchanged


@pytest.mark.parametrize("engine", ENGINES)
def test_every_image_is_encoded(bundle: Folders, engine: str) -> None:
    benchmark = Benchmark(PaliGemma.load(bundle(CASE), device="cpu", engine=engine))
    benchmark.measure(images_for(None, 3), "caption en", 4)
    assert [len(session.runs) for session in benchmark.sessions] == [3, 1, 3]


def test_images_of_one_colour_differ_too() -> None:
    first, *others = images_for(np.full((8, 8, 3), 255, np.uint8), 256)
    assert (first == 255).all()
    assert len({image.tobytes() for image in (first, *others)}) == 256


def test_a_context_that_is_too_short_is_told(model: PaliGemma) -> None:
    short = replace(model.manifest, model=replace(model.manifest.model, context_length=24))
    cramped = PaliGemma(short, model.tokenizer, replace(model.runner, manifest=short), 0.0)  # type: ignore[type-var]
    with pytest.raises(OptionError, match="20 tokens do not fit into the context, which has space for"):
        Benchmark(cramped).measure(images_for(None, 1), "caption en", 20)


def test_what_follows_from_a_cost() -> None:
    assert COST.overhead_share == pytest.approx(0.02)
    assert COST.tokens_per_second == pytest.approx(40)
    assert COST.images_per_minute == pytest.approx(60)
    assert COST.tokens_per_minute == pytest.approx(1200)


def test_seconds_of_runs_are_their_mean() -> None:
    assert mean_seconds([(1.0, 2.0), (5.0, 8.0)]) == 2.0


def test_peak_is_in_bytes_on_either_system(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_maxrss=2048))
    monkeypatch.setattr("sys.platform", "linux")
    assert peak_bytes() == 2048 * 1024
    monkeypatch.setattr("sys.platform", "darwin")
    assert peak_bytes() == 2048

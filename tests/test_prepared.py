"""Graphs kept as the engine wants them: the same answers, found again, and only when they are whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import ran, ran_here, started

from paligemma_onnx.runtime import BundleError, OptionError, PaliGemma, ResourceError, prepared
from paligemma_onnx.runtime.graphs import GraphRunner
from paligemma_onnx.runtime.manifest import read_manifest
from paligemma_onnx.runtime.session import Placement

Rounded = Callable[[str, str], Path]
CASE = "gemma_one_kv_head"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CPU = Placement("cpu", 2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a" / "cache"
    monkeypatch.setenv(prepared.CACHE, str(folder))
    return folder


def prepare(bundle: Path) -> Path:
    return Path(prepared.prepare(bundle, lambda _: None).folder)


def answer(bundle: Path) -> tuple[PaliGemma, tuple[int, ...]]:
    model = PaliGemma.load(bundle, device="cpu")
    return model, model.generate(PICTURE, "caption en", max_new_tokens=12).token_ids


def opened_prepared(model: PaliGemma) -> bool:
    assert isinstance(model.runner, GraphRunner)
    return model.runner.prepared is not None


@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact"])
def test_prepared_graphs_answer_alike(rounded: Rounded, cache: Path, precision: str) -> None:
    bundle = rounded(CASE, precision)
    before = sorted(bundle.iterdir())
    model, expected = answer(bundle)
    assert not opened_prepared(model)
    folder = prepare(bundle)
    model, found = answer(bundle)
    assert opened_prepared(model)
    assert found == expected
    graphs = 2 if precision != "int4" else 3  # prefill and decode are the same, or are not
    assert len(list(folder.glob("*.onnx"))) == graphs
    assert sorted(bundle.iterdir()) == before
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_sessions_take_the_written_graphs(rounded: Rounded, cache: Path) -> None:
    """Not those of the bundle: without its weights they still open."""
    bundle = rounded(CASE, "int4")
    folder, manifest = prepare(bundle), read_manifest(bundle)
    elsewhere = cache / "nothing"
    GraphRunner.open(elsewhere, manifest, CPU, prepared=folder)
    with pytest.raises(BundleError):
        GraphRunner.open(elsewhere, manifest, CPU)


def truncate(folder: Path) -> None:
    data = max(folder.glob("*.data"), key=lambda path: path.stat().st_size)
    os.truncate(data, data.stat().st_size - 1)


def flip(folder: Path) -> None:
    graph = next(folder.glob("*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def unfinished(folder: Path) -> None:
    (folder / prepared.CONTENT).unlink()


def nonsense(folder: Path) -> None:
    (folder / prepared.CONTENT).write_text(json.dumps([{"a": 1}]))


@pytest.mark.parametrize("damage", [truncate, flip, unfinished, nonsense])
def test_damaged_ones_are_left_alone_until_they_are_written_anew(
    rounded: Rounded, cache: Path, damage: Callable[[Path], None]
) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    damage(folder)
    model, expected = answer(bundle)
    assert not opened_prepared(model)
    assert prepare(bundle) == folder
    model, found = answer(bundle)
    assert opened_prepared(model)
    assert found == expected
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_another_processor_or_bundle_has_its_own(
    rounded: Rounded, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    assert not opened_prepared(answer(rounded(CASE, "int8"))[0])
    monkeypatch.setattr(prepared, "_processor", lambda: "another")
    assert not opened_prepared(answer(bundle)[0])
    other = prepare(bundle)
    assert other.parent == folder.parent == cache
    assert other != folder


def test_several_processes_at_once(rounded: Rounded, cache: Path) -> None:
    bundle = rounded(CASE, "int4")
    processes = [started("prepare", str(bundle)) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert opened_prepared(answer(bundle)[0])
    assert len(list(cache.iterdir())) == 1


def test_what_a_killed_process_left_goes(rounded: Rounded, cache: Path) -> None:
    recent, old = cache / ".recent", cache / ".old"
    for left in (recent, old):
        left.mkdir(parents=True)
        (left / "half.data").write_bytes(b"half")
    os.utime(old, (0, 0))
    folder = prepare(rounded(CASE, "int4"))
    assert sorted(path.name for path in cache.iterdir()) == sorted([recent.name, folder.name])


def test_fp32_has_nothing_to_prepare(cache: Path, in_place_bundle: Callable[[str], Path]) -> None:
    with pytest.raises(OptionError, match="fp32 graphs are mapped as they are"):
        prepare(in_place_bundle(CASE))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written(
    rounded: Rounded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = rounded(CASE, "int4")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(prepared.CACHE, str(tmp_path / "file"))
    with pytest.raises(OptionError, match="cannot be written"):
        prepare(bundle)
    assert not opened_prepared(answer(bundle)[0])


def test_a_disk_without_room(rounded: Rounded, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ResourceError, match="1 are free"):
        prepare(rounded(CASE, "int4"))
    assert not list(cache.iterdir())


def test_the_command(rounded: Rounded, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(rounded(CASE, "int4"))
    done = ran("prepare", bundle, "--json")
    assert json.loads(done.out)["folder"].startswith(str(cache)), done.err
    assert json.loads(ran_here(capsys, "prepare", bundle, "--remove", "--json").out)["removed"]
    assert not list(cache.iterdir())
    assert "nothing was prepared" in ran_here(capsys, "prepare", bundle, "--remove").out

"""Graphs kept as the engine wants them: the same answers, found again, and only when they are whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_line import run_command, run_in_process, start_command

from paligemma_onnx.runtime import BundleError, OptionError, PaliGemma, ResourceError
from paligemma_onnx.runtime.bundle.integrity import record_file
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine import prepared_graphs as prepared
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

Rounded = Callable[[str, str], Path]
CASE = "gemma_one_kv_head"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CPU = Placement("cpu", 2)


@pytest.fixture(autouse=True)
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
    assert isinstance(model.runner, OnnxModelRunner)
    return model.runner.prepared is not None


@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact"])
def test_prepared_graphs_answer_alike(rounded: Rounded, precision: str) -> None:
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
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_sessions_take_the_written_graphs(rounded: Rounded, cache: Path) -> None:
    """Not those of the bundle: without its weights they still open."""
    bundle = rounded(CASE, "int4")
    folder, manifest = prepare(bundle), read_manifest(bundle)
    elsewhere = cache / "nothing"
    OnnxModelRunner.open(elsewhere, manifest, CPU, prepared=folder)
    with pytest.raises(BundleError):
        OnnxModelRunner.open(elsewhere, manifest, CPU)


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


def forgotten(folder: Path) -> None:
    content = json.loads((folder / prepared.CONTENT).read_text())
    content.pop(next(name for name in content if name.endswith(".onnx")))
    (folder / prepared.CONTENT).write_text(json.dumps(content))


def nonsense(folder: Path) -> None:
    (folder / prepared.CONTENT).write_text(json.dumps([{"a": 1}]))


@pytest.mark.parametrize("damage", [truncate, flip, unfinished, forgotten, nonsense])
def test_damaged_ones_are_left_alone_until_they_are_written_anew(
    rounded: Rounded, damage: Callable[[Path], None]
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
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_graphs_that_do_not_open_are_not_used(rounded: Rounded) -> None:
    """Whole as far as anybody recorded, and yet no graphs."""
    bundle = rounded(CASE, "int4")
    _, expected = answer(bundle)
    folder = prepare(bundle)
    content = json.loads((folder / prepared.CONTENT).read_text())
    for path in folder.glob("*.onnx"):
        path.write_bytes(b"no graph")
        content[path.name] = asdict(record_file(path, hashed=True))
    (folder / prepared.CONTENT).write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match=f"prepared graphs do not open; run `paligemma-onnx prepare {bundle}`"
    ):
        model, found = answer(bundle)
    assert not opened_prepared(model)
    assert found == expected


def test_a_damaged_bundle_is_not_prepared(rounded: Rounded, cache: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(rounded(CASE, "int4"), bundle)
    content = bytearray((bundle / "decoder.data").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "decoder.data").write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.data is altered"):
        prepare(bundle)
    assert not cache.exists()


def test_another_processor_or_bundle_has_its_own(
    rounded: Rounded, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    assert not opened_prepared(answer(rounded(CASE, "int8"))[0])
    monkeypatch.setattr(prepared, "_processor", lambda: "another")
    assert not opened_prepared(answer(bundle)[0])
    other = prepare(bundle)
    assert other.parent == folder.parent == cache / "prepared"
    assert other != folder


def test_several_processes_at_once(rounded: Rounded, cache: Path) -> None:
    bundle = rounded(CASE, "int4")
    processes = [start_command("prepare", str(bundle)) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert opened_prepared(answer(bundle)[0])
    assert len(list((cache / "prepared").iterdir())) == 1


def test_what_a_killed_process_left_goes(rounded: Rounded) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    recent, old, others = (
        folder.with_name(name) for name in (f".{folder.name}.a", f".{folder.name}.b", ".git")
    )
    for left in (recent, old, others):
        left.mkdir()
        (left / "half.data").write_bytes(b"half")
    for left in (old, others):
        os.utime(left, (0, 0))
    assert prepare(bundle) == folder
    assert sorted(folder.parent.iterdir()) == sorted([recent, others, folder])


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
    assert not list((cache / "prepared").iterdir())


def test_the_command(rounded: Rounded, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(rounded(CASE, "int4"))
    done = run_command("prepare", bundle, "--json")
    assert json.loads(done.out)["folder"].startswith(str(cache)), done.err
    assert json.loads(run_in_process(capsys, "prepare", bundle, "--remove", "--json").out)["removed"]
    assert not list((cache / "prepared").iterdir())
    assert "nothing to remove" in run_in_process(capsys, "prepare", bundle, "--remove").out

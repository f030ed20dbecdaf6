"""Prepared graphs: the same answers, and used only if they are complete."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_line import run_command, run_in_process, start_command

from paligemma_onnx.runtime import BundleError, OptionError, PaliGemma, ResourceError
from paligemma_onnx.runtime.bundle.integrity import read_file_spec
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine import prepared_graphs
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

pytestmark = pytest.mark.slow

Rounded = Callable[[str, str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CPU = Placement("cpu", 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a" / "cache"
    monkeypatch.setenv(prepared_graphs.CACHE, str(folder))
    return folder


def prepare(bundle: Path) -> Path:
    return Path(prepared_graphs.prepare(bundle, lambda _: None).folder)


def answer(bundle: Path) -> tuple[PaliGemma, tuple[int, ...]]:
    model = PaliGemma.load(bundle, device="cpu")
    return model, model.generate(IMAGE, "caption en", max_new_tokens=12).token_ids


def uses_prepared(model: PaliGemma) -> bool:
    assert isinstance(model.runner, OnnxModelRunner)
    return model.runner.prepared is not None


@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact", "int4-portable"])
def test_prepared_graphs_answer_alike(rounded: Rounded, precision: str) -> None:
    bundle = rounded(CASE, precision)
    before = sorted(bundle.iterdir())
    model, expected = answer(bundle)
    assert not uses_prepared(model)
    folder = prepare(bundle)
    model, token_ids = answer(bundle)
    assert uses_prepared(model)
    assert token_ids == expected
    # int8 and int4-compact: prefill and decode are the same graph.
    graphs = 3 if precision in ("int4", "int4-portable") else 2
    assert len(list(folder.glob("*.onnx"))) == graphs
    assert sorted(bundle.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_sessions_take_the_written_graphs(rounded: Rounded, cache: Path) -> None:
    """Without the bundle's files the sessions still open."""
    bundle = rounded(CASE, "int4")
    folder, manifest = prepare(bundle), read_manifest(bundle)
    elsewhere = cache / "empty"
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


def remove_content(folder: Path) -> None:
    (folder / prepared_graphs.CONTENT).unlink()


def remove_entry(folder: Path) -> None:
    content = json.loads((folder / prepared_graphs.CONTENT).read_text())
    content.pop(next(name for name in content if name.endswith(".onnx")))
    (folder / prepared_graphs.CONTENT).write_text(json.dumps(content))


def replace_content(folder: Path) -> None:
    (folder / prepared_graphs.CONTENT).write_text(json.dumps([{"a": 1}]))


def nest_content(folder: Path) -> None:
    (folder / prepared_graphs.CONTENT).write_text("[" * 100_000)


def make_content_a_pipe(folder: Path) -> None:
    (folder / prepared_graphs.CONTENT).unlink()
    os.mkfifo(folder / prepared_graphs.CONTENT)


def make_content_endless(folder: Path) -> None:
    (folder / prepared_graphs.CONTENT).unlink()
    (folder / prepared_graphs.CONTENT).symlink_to("/dev/zero")


DAMAGES = (truncate, flip, remove_content, remove_entry, replace_content)
DAMAGED_CONTENTS = (nest_content, make_content_a_pipe, make_content_endless)


@pytest.mark.parametrize("damage", [*DAMAGES, *DAMAGED_CONTENTS])
def test_damaged_ones_are_left_alone_until_they_are_written_anew(
    rounded: Rounded, damage: Callable[[Path], None]
) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    damage(folder)
    model, expected = answer(bundle)
    assert not uses_prepared(model)
    assert prepare(bundle) == folder
    model, token_ids = answer(bundle)
    assert uses_prepared(model)
    assert token_ids == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_graphs_that_do_not_open_are_not_used(rounded: Rounded) -> None:
    """Sizes and hashes agree, but the files contain no graphs."""
    bundle = rounded(CASE, "int4")
    _, expected = answer(bundle)
    folder = prepare(bundle)
    content = json.loads((folder / prepared_graphs.CONTENT).read_text())
    for path in folder.glob("*.onnx"):
        path.write_bytes(b"no graph")
        content[path.name] = asdict(read_file_spec(path, hashed=True))
    (folder / prepared_graphs.CONTENT).write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match=f"prepared graphs do not open; run `paligemma-onnx prepare {bundle}`"
    ):
        model, token_ids = answer(bundle)
    assert not uses_prepared(model)
    assert token_ids == expected


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
    assert not uses_prepared(answer(rounded(CASE, "int8"))[0])
    monkeypatch.setattr(platform, "processor", lambda: "another")
    assert not uses_prepared(answer(bundle)[0])
    other = prepare(bundle)
    assert other.parent == folder.parent == cache / "prepared"
    assert other != folder


def test_several_processes_at_once(rounded: Rounded, cache: Path) -> None:
    bundle = rounded(CASE, "int4")
    processes = [start_command("prepare", str(bundle)) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert uses_prepared(answer(bundle)[0])
    assert len(list((cache / "prepared").iterdir())) == 1


def test_old_staging_folders_are_removed(rounded: Rounded) -> None:
    bundle = rounded(CASE, "int4")
    folder = prepare(bundle)
    recent, old, others = (
        folder.with_name(name) for name in (f".{folder.name}.a", f".{folder.name}.b", ".git")
    )
    for staging in (recent, old, others):
        staging.mkdir()
        (staging / "half.data").write_bytes(b"half")
    for staging in (old, others):
        os.utime(staging, (0, 0))
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
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(prepared_graphs.CACHE, str(tmp_path / "file"))
    with pytest.raises(OptionError, match="cannot be written"):
        prepare(bundle)
    assert not uses_prepared(answer(bundle)[0])


def test_a_user_without_a_home_folder(
    rounded: Rounded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's user may have neither HOME nor an entry in the passwd database."""
    bundle = rounded(CASE, "int8")
    for name in (prepared_graphs.CACHE, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not uses_prepared(answer(bundle)[0])
    for options in ([], ["--remove"]):
        result = run_in_process(capsys, "prepare", bundle, *options)
        assert (result.code, result.out) == (2, "")
        assert f"set {prepared_graphs.CACHE} to a folder" in result.error


def test_a_cache_folder_that_is_not_utf8(
    rounded: Rounded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(prepared_graphs.CACHE, str(tmp_path / "caf\udce9"))
    bundle = rounded(CASE, "int8")
    with pytest.raises(OptionError, match="is not UTF-8"):
        prepare(bundle)
    assert not uses_prepared(answer(bundle)[0])


def test_a_full_disk(rounded: Rounded, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ResourceError, match="1 are free"):
        prepare(rounded(CASE, "int4"))
    assert not list((cache / "prepared").iterdir())


def test_the_command(rounded: Rounded, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(rounded(CASE, "int4"))
    result = run_command("prepare", bundle, "--json")
    assert json.loads(result.out)["folder"].startswith(str(cache)), result.err
    assert json.loads(run_in_process(capsys, "prepare", bundle, "--remove", "--json").out)["removed"]
    assert not list((cache / "prepared").iterdir())
    assert "nothing to remove" in run_in_process(capsys, "prepare", bundle, "--remove").out

"""Incomplete, damaged and mixed bundles are refused before a graph runs; unusual folders are accepted."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import assert_bundle_refused, run_command, run_in_process
from damage import copy_folder, edit_graph, flip_bit, name_graph
from paths import SCENE

from paligemma_onnx.runtime import BundleError, PaliGemma, ProviderError
from paligemma_onnx.runtime.diagnostics.verify import verify
from paligemma_onnx.runtime.engine import devices
from paligemma_onnx.runtime.engine.graph_executor import Executor
from paligemma_onnx.runtime.engine.ort import import_onnxruntime

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GRAPHS = ("vision_encoder.onnx", "prefill.onnx", "decode.onnx")


@pytest.fixture
def copy(bundle: Folders, tmp_path: Path) -> Path:
    return copy_folder(bundle(CASE), tmp_path / "bundle")


@pytest.mark.parametrize(
    "name", [*GRAPHS, "vision_encoder.data", "decoder.data", "tokenizer.json", "tensors.json"]
)
def test_files(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, empty, cut, extended, a folder, a pipe: the file is named before anything is read."""
    path, content = copy / name, (copy / name).read_bytes()
    size = len(content)
    path.unlink()
    assert_bundle_refused(copy, f"{name} is missing", capsys)
    path.mkdir()
    assert_bundle_refused(copy, f"{name} is missing", capsys)
    path.rmdir()
    os.mkfifo(path)
    assert_bundle_refused(copy, f"{name} is missing", capsys)
    path.unlink()
    for part in (b"", content[:-1], content + b"\0"):
        path.write_bytes(part)
        assert_bundle_refused(copy, f"{name} has {len(part)} bytes instead of {size}", capsys)


def test_several_files_are_named_together(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "decode.onnx").unlink()
    (copy / "decoder.data").write_bytes(b"")
    assert_bundle_refused(copy, "decode.onnx is missing", capsys)
    assert_bundle_refused(copy, "decoder.data has 0 bytes", capsys)


@pytest.mark.parametrize("name", [*GRAPHS, "tokenizer.json", "tensors.json"])
def test_a_flipped_bit_in_graph_or_tokenizer_shows_at_once(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nearly half of the damaged graphs would load and compute something else."""
    flip_bit(copy / name)
    assert_bundle_refused(copy, f"{name} is altered", capsys)


@pytest.mark.parametrize("name", ["vision_encoder.data", "decoder.data"])
def test_a_flipped_bit_in_the_weights_shows_in_verify(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(capsys, "verify", copy).code == 0
    flip_bit(copy / name)
    with pytest.raises(BundleError, match=rf"{name} is altered \(another SHA-256\)"):
        verify(copy, lambda _: None)
    result = run_in_process(capsys, "verify", copy)
    assert (result.code, result.out) == (4, "")
    assert f"{name} is altered" in result.error


def test_a_graph_of_another_bundle(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same size and shapes, and with its hash in the manifest."""

    edit_graph(copy, "decode.onnx", name_graph("f" * 32))
    words = "belongs to bundle ffffffffffffffffffffffffffffffff, the manifest is of bundle"
    assert_bundle_refused(copy, words, capsys)
    edit_graph(copy, "decode.onnx", lambda model: model.ClearField("metadata_props"))
    assert_bundle_refused(copy, "belongs to bundle none", capsys)


@pytest.mark.parametrize(("name", "kind"), [("prefill.onnx", "input"), ("decode.onnx", "output")])
def test_graphs_whose_tensors_differ_are_named(
    copy: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        values = model.graph.input if kind == "input" else model.graph.output
        if kind == "input":
            model.graph.input.append(onnx.helper.make_tensor_value_info("extra", onnx.TensorProto.INT64, [1]))
        else:
            values.pop()

    edit_graph(copy, name, change)
    tensor = "extra" if kind == "input" else "present.1.value"
    assert_bundle_refused(copy, f"{name}: {kind}s differ from the manifest: {tensor}; export again", capsys)


def test_graphs_whose_dtypes_or_sizes_differ_are_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        lengths, ids = (value.type.tensor_type for value in model.graph.input[1::-1])
        lengths.elem_type = onnx.TensorProto.FLOAT
        ids.shape.dim[1].dim_value = 2

    edit_graph(copy, "decode.onnx", change)
    with pytest.raises(BundleError, match=r"decode.onnx: (onnxruntime does not load|inputs differ)"):
        PaliGemma.load(copy, device="cpu")
    assert run_in_process(capsys, "generate", "--model", copy, "--image", "x", "").code == 4


def test_a_graph_the_engine_does_not_take(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    edit_graph(copy, "decode.onnx", change)
    assert_bundle_refused(copy, "decode.onnx: onnxruntime has no operator 'NoSuchOperator'", capsys)
    debug = run_in_process(capsys, "--debug", "generate", "--model", copy, "--image", "x", "")
    assert debug.code == 4
    assert "NoSuchOperator" in debug.err  # onnxruntime's message


def test_weights_that_lie_outside_the_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = copy.parent / "decoder.data"
    shutil.copy(copy / "decoder.data", outside)

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = f"../{entry.value}"

    edit_graph(copy, "decode.onnx", change)
    assert_bundle_refused(copy, "which is missing or outside the bundle", capsys)


def test_nothing_runs_before_all_is_checked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a graph ran")

    monkeypatch.setattr(Executor, "run", fail)
    edit_graph(copy, "decode.onnx", name_graph("0" * 32))
    with pytest.raises(BundleError, match="belongs to bundle"):
        PaliGemma.load(copy).generate(IMAGE, "caption en")


def answer(folder: Path) -> tuple[int, ...]:
    return PaliGemma.load(folder, device="cpu").generate(IMAGE, "caption en", max_new_tokens=8).token_ids


def test_the_layout_of_the_hub_cache(bundle: Folders, tmp_path: Path) -> None:
    """Every file is a symbolic link to a blob that is named by its hash."""
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(bundle(CASE).iterdir())):
        shutil.copy(file, blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    assert answer(snapshot) == answer(bundle(CASE))
    verify(snapshot, lambda _: None)


def test_a_folder_that_cannot_be_written(copy: Path) -> None:
    """Nothing is written and no time changes; the tests may run as root, who could write nevertheless."""

    def file_stats() -> dict[str, os.stat_result]:
        return {file.name: file.stat() for file in (copy, *copy.iterdir())}

    for file in copy.iterdir():
        file.chmod(stat.S_IRUSR)
    copy.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = {name: (stat.st_mtime_ns, stat.st_size) for name, stat in file_stats().items()}
    assert answer(copy)
    verify(copy, lambda _: None)
    assert {name: (stat.st_mtime_ns, stat.st_size) for name, stat in file_stats().items()} == before
    copy.chmod(stat.S_IRWXU)


def test_a_device_that_is_not_there(
    bundle: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="device 'cuda' is not available here, only: cpu"):
        PaliGemma.load(bundle(CASE), device="cuda")
    result = run_in_process(
        capsys, "generate", "--model", bundle(CASE), "--image", "x", "", "--device", "cuda"
    )
    assert result.code == 4
    assert "only: cpu" in result.error
    assert PaliGemma.load(bundle(CASE)).device == "cpu"


# Imitates onnxruntime with CUDA on a machine without a GPU: it falls back silently, or raises.
NO_CUDA = """
import onnxruntime
original = onnxruntime.InferenceSession
def session(path, options, providers, **named):
    if providers[0][0] == "CUDAExecutionProvider" and {raises}:
        raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
    return original(path, options, providers=["CPUExecutionProvider"], **named)
onnxruntime.InferenceSession = session
onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
"""


@pytest.mark.parametrize("raises", [False, True])
def test_auto_falls_back_and_says_so(bundle: Folders, raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = import_onnxruntime()
    monkeypatch.setattr(ort, "InferenceSession", ort.InferenceSession)  # restores it after the test
    monkeypatch.setattr(ort, "get_available_providers", ort.get_available_providers)
    exec(NO_CUDA.format(raises=raises), {})
    assert devices.available_devices() == ("cpu", "cuda")
    with pytest.raises(ProviderError, match=r"CUDA"):
        PaliGemma.load(bundle(CASE), device="cuda")
    with pytest.warns(UserWarning, match="running on the CPU, since CUDA does not load"):
        model = PaliGemma.load(bundle(CASE))
    assert model.device == "cpu"


def test_auto_falls_back_and_says_so_in_the_command(bundle: Folders) -> None:
    image = SCENE
    result = run_command(
        "generate", "--model", str(bundle(CASE)), "--image", str(image), "", "--json",
        before=NO_CUDA.format(raises=True),
    )  # fmt: skip
    assert result.code == 0
    assert json.loads(result.out)["device"] == "cpu"
    assert result.err.startswith("warning: running on the CPU, since CUDA does not load")
    assert result.err.count("\n") == 1

"""The mask decoder as a fourth graph: exported, checked and run, and absent if the checkpoint has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import run_in_process
from exporting import RecordingProgress, export_checked
from numpy_mask_decoder import decode_mask, random_weights

from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime import BundleError, Cancellation, PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.errors import MismatchError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.zeros((20, 30, 3), np.uint8)
SIZES = {"small": (24, 16), "published": (512, 128)}


@pytest.fixture(scope="module")
def with_masks(tmp_path_factory: pytest.TempPathFactory, checkpoint: Folders) -> Callable[[str], Path]:
    """Return a bundle whose mask decoder has random weights; they are in `SIZE.npz` next to it."""
    folder, exported = tmp_path_factory.mktemp("masks"), dict[str, Path]()

    def get(size: str) -> Path:
        if size not in exported:
            np.savez(folder / f"{size}.npz", allow_pickle=False, **random_weights(*SIZES[size]))
            weights = folder / f"{size}.npz"
            export_checked(ExportRequest(checkpoint(CASE), folder / size, mask_decoder=weights))
            exported[size] = folder / size
        return exported[size]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masks", [1, 5])
def test_the_graph_is_numpy(with_masks: Callable[[str], Path], size: str, masks: int) -> None:
    runner = PaliGemma.load(with_masks(size), device="cpu").runner
    codes = np.random.default_rng(masks).integers(128, size=(masks, 16))
    maps = runner.decode_masks(codes, Cancellation())
    assert maps.shape == (masks, 64, 64)
    assert maps.dtype == np.float32
    weights = random_weights(*SIZES[size])
    expected = np.stack([decode_mask(weights, row) for row in codes])
    error = np.abs(maps - expected).max() / np.abs(expected).max()
    print(f"{size}: largest error {error:.1e} of the largest value")  # measured: up to 5e-7
    assert error <= 1e-5


def test_what_is_in_the_bundle(with_masks: Callable[[str], Path], bundle: Folders) -> None:
    folder = with_masks("small")
    graph = read_manifest(folder).graphs.mask_decoder
    assert graph is not None
    assert (graph.file, graph.inputs[0].name, graph.outputs[0].name) == (
        "mask_decoder.onnx",
        "codes",
        "masks",
    )
    assert {"mask_decoder.onnx", "mask_decoder.data"} <= {file.name for file in folder.iterdir()}
    without = json.loads((bundle(CASE) / "manifest.json").read_text(encoding="utf-8"))
    assert "mask_decoder" not in without["graphs"]
    assert read_manifest(bundle(CASE)).graphs.mask_decoder is None


def test_a_bundle_without_one_says_so(bundle: Folders) -> None:
    model = PaliGemma.load(bundle(CASE), device="cpu")
    with pytest.raises(BundleError, match="has no mask decoder; export the checkpoint with --mask-decoder"):
        model.segment(IMAGE, "cat")
    with pytest.raises(BundleError, match="has no mask decoder"):
        model.runner.decode_masks(np.zeros((1, 16), np.int64), Cancellation())


@pytest.mark.slow
def test_one_changed_weight_is_found(
    with_masks: Callable[[str], Path], checkpoint: Folders, tmp_path: Path
) -> None:
    weights = random_weights(*SIZES["small"])
    weights["decoder.4.bias"][3] += 0.01
    np.savez(tmp_path / "other.npz", allow_pickle=False, **weights)
    folder = with_masks("small")
    source = open_source(checkpoint(CASE), mask_decoder=tmp_path / "other.npz")
    with pytest.raises(MismatchError, match=r"1 of .* tensors differ .* mask_decoder\.decoder\.4\.bias"):
        self_check(folder, read_manifest(folder), source, lambda _: None)


@pytest.mark.slow
def test_the_command_line(
    capsys: pytest.CaptureFixture[str],
    with_masks: Callable[[str], Path],
    checkpoint: Folders,
    tmp_path: Path,
) -> None:
    folder = with_masks("small")
    options = ("--checkpoint", checkpoint(CASE), "--steps", "1", "--json")
    ended = run_in_process(
        capsys, "validate", folder, *options, "--mask-decoder", folder.with_name("small.npz")
    )
    assert ended.code == 0
    compared = {each["stage"]: each for each in json.loads(ended.out)["comparison"]["differences"]}
    assert 0 < compared["mask_decoder"]["relative"] < 1e-5
    without = run_in_process(capsys, "validate", folder, *options)
    assert without.code == 2
    assert "give --mask-decoder" in without.error
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    export_it = ("export", checkpoint(CASE), "--output", tmp_path / "bundle", "--mask-decoder")
    damaged = run_in_process(capsys, *export_it, tmp_path / "cut.npz")
    assert damaged.code == 4
    assert "cut.npz" in damaged.error
    assert not (tmp_path / "bundle").exists()


def test_weights_that_are_not_finite(checkpoint: Folders, tmp_path: Path) -> None:
    weights = random_weights(*SIZES["small"])
    weights["decoder.12.bias"][0] = np.nan
    np.savez(tmp_path / "nan.npz", allow_pickle=False, **weights)
    request = ExportRequest(
        checkpoint(CASE), tmp_path / "bundle", mask_decoder=tmp_path / "nan.npz", strict=True
    )
    with pytest.raises(CheckpointError, match=r"NaN or infinity: mask_decoder\.decoder\.12\.bias"):
        export(request, RecordingProgress(), None)

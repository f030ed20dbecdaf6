"""Numerics of the CUDA graphs, computed on a CPU by float32_emulation.py and compared with torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from emulated_half import open_on_cpu
from exporting import RecordingProgress, export_bundle
from paths import GOLDEN

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.graphs.cuda_weights import (
    HEAD_DIM_MULTIPLE,
    compute_rotary_tables,
    cuda_meta_model,
)
from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.export.quantization.encodings import to_half
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.measures import LIMITS
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.rotary import compute_rotation
from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.bundle.check_manifest import check_manifest
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.ort import import_onnxruntime
from paligemma_onnx.runtime.engine.prepared_graphs import prepare
from paligemma_onnx.runtime.errors import BundleError, MismatchError, OptionError, ProviderError

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
CUDA_PRECISIONS = [name for name, precision in PRECISIONS.items() if precision.half_dtype is not None]
WINDOW = "gemma2_window"  # caps, a window of 5, grouped heads of a width that CUDA kernels support
BATCH = 8
ENTRIES: list[dict[str, Any]] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the bundle of the shipped model in a precision for CUDA."""
    folder = tmp_path_factory.mktemp("shipped")

    def get(precision: str) -> Path:
        if not (folder / precision).exists():
            with shipped_model() as checkpoint:
                export_bundle(checkpoint, folder / precision, precision)
        return folder / precision

    return get


@pytest.fixture(scope="module")
def windowed(cuda_bundle: Callable[[str, str], Path]) -> Folders:
    """Return the bundle of a PaliGemma 2 with caps and a sliding window, in a precision for CUDA."""
    return lambda precision: cuda_bundle(WINDOW, precision)


def rms_errors(bundle: Path, checkpoint: Path) -> dict[str, float]:
    """Return the root mean square error by stage and kind of tensor, of the layer where it is largest."""
    validation = self_check(bundle, read_manifest(bundle), open_source(checkpoint), lambda _: None)
    assert validation.device == "cpu (float32 emulation of half precision)"
    assert validation.weights.passed
    assert validation.weights.tensors > 20
    errors: dict[str, float] = {}
    for difference in validation.comparison.differences:
        kind = f"{difference.stage} {difference.name.rpartition('.')[2]}"
        errors[kind] = max(errors.get(kind, 0.0), difference.rms)
    return errors


@pytest.mark.parametrize("precision", CUDA_PRECISIONS)
def test_every_graph_and_layer_beside_torch(
    windowed: Folders, checkpoint: Folders, precision: str, record_property: Callable[[str, object], None]
) -> None:
    """Errors of prefill, decode steps beyond the window, and caches are those of the precision's rounding."""
    errors = rms_errors(windowed(precision), checkpoint(WINDOW))
    record_property("rms", errors)
    assert {"vision image_features", "prefill logits", "prefill key", "step.3 value"} <= errors.keys()
    half = PRECISIONS[precision].half_dtype
    assert half is not None
    rounding = {"bfloat16": 2**-8, "float16": 2**-11}[half]  # relative error of one number
    kinds = [kind for kind in errors if kind != "mask_decoder masks"]
    assert max(errors[kind] for kind in kinds) > rounding / 8  # the graphs do compute in half precision
    if precision in LIMITS:
        assert all(errors[kind] < 4 * rounding for kind in kinds), errors


def test_float16_rounds_less_than_bfloat16(windowed: Folders, checkpoint: Folders) -> None:
    coarse, fine = (rms_errors(windowed(precision), checkpoint(WINDOW)) for precision in ("bf16", "fp16"))
    for kind in ("vision image_features", "prefill value", "step.0 logits"):
        assert 4 < coarse[kind] / fine[kind] < 16  # three more bits: a factor of 8


@pytest.mark.parametrize(("precision", "min_share"), [("bf16", 0.99), ("fp16", 0.99)])
def test_golden_ids(shipped: Folders, precision: str, min_share: float) -> None:
    """The share of tokens, after the same previous tokens, on which a precision agrees with float32."""
    model, never = open_on_cpu(shipped(precision)), Cancellation()
    stop, suppressed = model.manifest.tokens.stop[0], list(model.manifest.tokens.suppressed)
    agreed = total = 0
    for start in range(0, len(ENTRIES), BATCH):
        entries = ENTRIES[start : start + BATCH]
        pixels = np.stack([model.open(GOLDEN / entry["image"]).pixels for entry in entries])
        prompts = [model.tokenizer.encode(entry["prompt"], 400) for entry in entries]
        answers = [[*entry["ids"], stop] for entry in entries]
        lengths, steps = np.array([len(prompt) for prompt in prompts]), max(map(len, answers))
        input_ids = np.array([[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts])
        features = model.runner.encode_image(pixels, never)
        logits, cache = model.runner.prefill(input_ids, features, lengths, 512, never)
        for step in range(steps):
            logits[:, suppressed] = -np.inf
            expected = np.array([answer[step] if step < len(answer) else -1 for answer in answers])
            agreed += int((logits.argmax(axis=1) == expected).sum())
            total += int((expected >= 0).sum())
            logits, cache = model.runner.decode(np.maximum(expected, 0)[:, None], cache, never)
        model.runner.release(cache, reusable=True)
    assert total == sum(len(entry["ids"]) + 1 for entry in ENTRIES) > 200
    assert agreed / total >= min_share, f"{agreed} of {total}"


def test_rows_of_a_batch_are_what_they_are_alone(shipped: Folders) -> None:
    """Rows of different lengths, with shared images and several images, decode in one buffer."""
    model = open_on_cpu(shipped("fp16"))
    images = [GOLDEN / name for name in ("seen-12000000.png", "seen-12000004.png")]
    requests = [
        Request(images[0], "caption en"),
        Request(images[1], "answer en how many objects are there?"),
        Request(images[0], "detect triangle"),
        Request(images[::-1], "caption en"),
        Request(images, "answer en what does it say?"),
    ]
    together = model.generate_batch(requests, max_new_tokens=10)
    for request, answer in zip(requests, together, strict=True):
        assert model.generate(request.images, request.prompt, max_new_tokens=10).token_ids == answer.token_ids


def test_packed_tensors_are_the_checkpoints(checkpoint: Folders) -> None:
    source = open_source(checkpoint(WINDOW))
    packed, plain = source.weights("bf16"), source.checkpoint
    layer = "language_model.layers.1"
    qkv = packed.tensor(f"{layer}.self_attn.qkv_proj.weight")
    parts = [plain.tensor(f"{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
    start = 0
    for part in parts:
        assert torch.equal(qkv[start : start + len(part)], part)
        start += len(part)
    assert start == len(qkv)
    gain = packed.tensor(f"{layer}.input_layernorm.gain")
    assert torch.equal(gain, 1 + plain.tensor(f"{layer}.input_layernorm.weight").float())
    # It provides every tensor of the traced model in its shape, and no number of the checkpoint is lost.
    model = cuda_meta_model(source.config, torch.bfloat16)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert {name: tuple(packed.tensor(name).shape) for name in shapes} == shapes
    assert sum(np.prod(shape) for shape in shapes.values()) == sum(
        plain.tensor(name).numel() for name in plain.names
    )


def test_tables_of_angles(checkpoint: Folders) -> None:
    config = open_source(checkpoint(WINDOW)).config.text_config
    tables = list(compute_rotary_tables(config).values())
    positions = torch.arange(config.max_position_embeddings)[None]
    half = config.head_dim // 2
    frequencies = config.rope_theta ** -(torch.arange(half, dtype=torch.float32) / half)
    for table, expected in zip(tables, compute_rotation(positions, frequencies), strict=True):
        assert torch.allclose(table, expected[0, 0], atol=1e-4)


def test_a_wrong_graph_is_not_taken_for_a_rounded_one(
    windowed: Folders, checkpoint: Folders, tmp_path: Path
) -> None:
    """The comparison that every export passes detects each change."""

    def assert_detected(change: Callable[[onnx.NodeProto], bool]) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(windowed("bf16"), folder)
        for name in ("prefill.onnx", "decode.onnx"):
            model = onnx.load(folder / name, load_external_data=False)
            if sum(change(node) for node in model.graph.node):
                onnx.save(model, folder / name)
        source = open_source(checkpoint(WINDOW))
        with pytest.raises(MismatchError):
            self_check(folder, read_manifest(folder), source, lambda _: None)

    def set_to(operator: str, attribute: str, value: float) -> Callable[[onnx.NodeProto], bool]:
        def change(node: onnx.NodeProto) -> bool:
            if node.op_type != operator:
                return False
            matching = [proto for proto in node.attribute if proto.name == attribute]
            for proto in matching:
                if proto.type == onnx.AttributeProto.INT:
                    proto.i = int(value)
                else:
                    proto.f = value
            return bool(matching)

        return change

    assert_detected(set_to("GroupQueryAttention", "local_window_size", 4))
    assert_detected(set_to("GroupQueryAttention", "softcap", 0.0))
    assert_detected(set_to("GroupQueryAttention", "scale", 0.1))
    assert_detected(set_to("Attention", "scale", 0.1))


def test_a_model_whose_heads_no_kernel_takes(checkpoint: Folders, tmp_path: Path) -> None:
    request = ExportRequest(checkpoint("gemma_one_kv_head"), tmp_path / "bundle", precision="bf16")
    complaint = f"head_dim is 8, .* multiples of {HEAD_DIM_MULTIPLE}; export as fp32"
    with pytest.raises(CheckpointError, match=complaint):
        export(request, RecordingProgress(), None)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_float16_does_not_hold() -> None:
    large = torch.tensor([1.0, 7e4])
    assert to_half(large, "bfloat16").isfinite().all()
    with pytest.raises(CheckpointError, match="a weight of 7e\\+04 exceeds float16's largest number"):
        to_half(large, "float16")
    assert to_half(torch.tensor([1.0, torch.inf]), "float16").isinf().sum() == 1  # infinity stays infinity


def test_on_a_machine_without_a_gpu(windowed: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle = windowed("bf16")
    with pytest.raises(ProviderError, match="CUDA needs `pip install"):
        PaliGemma.load(bundle)
    with pytest.raises(BundleError, match="runs on cuda, not on cpu; export again with --precision fp32"):
        PaliGemma.load(bundle, device="cpu")
    with pytest.raises(OptionError, match="for a GPU; there is nothing to prepare"):
        prepare(bundle, lambda _: None)


@pytest.mark.parametrize("precision", CUDA_PRECISIONS)
def test_what_the_manifest_says(windowed: Folders, precision: str) -> None:
    manifest, expected = read_manifest(windowed(precision)), PRECISIONS[precision]
    assert manifest.precision.devices == ("cuda",)
    assert manifest.cache.dtype == expected.half_dtype
    assert manifest.precision.matrices.decode == str(expected.decode)
    assert [spec.name for spec in manifest.graphs.decode.inputs][:2] == ["input_ids", "past_lengths"]
    with pytest.raises(ValueError, match=r"cache.dtype says float32"):
        check_manifest(replace(manifest, cache=replace(manifest.cache, dtype="float32")))

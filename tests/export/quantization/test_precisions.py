"""Quantised bundles: each graph compared with torch on the weights that its codes represent.

The remaining difference is the rounding of activations to 8 bits, so these bounds are tighter than those of
`validate`, which compares with the unquantised checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from dequantized_model import dequantized_model
from numpy.typing import NDArray

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.self_check import self_check, synthetic_image
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError
from paligemma_onnx.runtime.graphs.kv_cache import split_heads
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
ROUNDED = [name for name, precision in PRECISIONS.items() if precision.quantizes_activations]
CASES = ["gemma_one_kv_head", "gemma_two_kv_heads", "gemma2_window"]
# Relative RMS error of 8-bit activations: up to 1/255 of their range, which grows through two layers of large
# random weights. A wrong scale, channel or block gives errors of some tenths.
MAX_ACTIVATION_ERROR = 0.06
PROMPTS = np.array([[2, 5, 300, 17, 108], [2, 40, 108, 0, 0]])
LENGTHS = np.array([5, 3])
STEPS = 3


def rms_error(actual: NDArray[Any], reference: torch.Tensor) -> float:
    """Return the root mean square error relative to the reference's root mean square."""
    expected = reference.numpy()
    return float(np.sqrt(np.square(actual - expected).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ROUNDED)
def test_each_graph_multiplies_with_its_codes(
    rounded: Callable[[str, str], Path], checkpoint: Folders, name: str, precision: str
) -> None:
    folder, source = rounded(name, precision), open_source(checkpoint(name))
    manifest, never = read_manifest(folder), Cancellation()
    runner = OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))

    pixels = synthetic_image(manifest.image.size)[None]
    vision = dequantized_model(source, precision, "vision_encoder")
    features = vision.encode_image(torch.from_numpy(pixels))
    errors = {"vision": rms_error(runner.encode_image(pixels, never), features)}

    shared = features.expand(2, -1, -1)
    capacity = shared.shape[1] + PROMPTS.shape[1] + STEPS
    prefill = dequantized_model(source, precision, "prefill")
    expected, _ = prefill.prefill(torch.from_numpy(PROMPTS), shared, torch.from_numpy(LENGTHS))
    logits, cache = runner.prefill(PROMPTS, shared.numpy(), LENGTHS, capacity, never)
    errors["prefill"] = rms_error(logits, expected)

    decode = dequantized_model(source, precision, "decode")
    for step in range(STEPS):
        # Torch continues from the bundle's cache, so that the error is that of this step only.
        values = [torch.from_numpy(split_heads(value, manifest.cache)) for value in cache.values]
        past = tuple(map(KeyValue, values[::2], values[1::2]))
        ids = np.array([[7 + step], [300 + step]])
        expected, _ = decode.decode_step(torch.from_numpy(ids), torch.from_numpy(cache.lengths), past)
        logits, cache = runner.decode(ids, cache, never)
        errors[f"step {step}"] = rms_error(logits, expected)
    print(f"{name} {precision}: " + ", ".join(f"{part} {error:.1e}" for part, error in errors.items()))
    assert max(errors.values()) < MAX_ACTIVATION_ERROR


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [3, 4])
def test_steps_of_many_rows_take_prefills_weights(
    rounded: Callable[[str, str], Path], checkpoint: Folders, name: str, rows: int
) -> None:
    """From four rows on, `int4` decodes with the 8-bit weights of the prefill graph."""
    folder, source = rounded(name, "int4"), open_source(checkpoint(name))
    manifest, never = read_manifest(folder), Cancellation()
    assert manifest.precision.wide_batch == 4
    runner = OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))
    random, lengths = np.random.default_rng(1), np.array([5, 3, 4, 2])[:rows]
    features = random.normal(size=(rows, 6, manifest.model.hidden_size)).astype(np.float32)
    _, cache = runner.prefill(random.integers(4, 600, (rows, 5)), features, lengths, 12, never)
    values = [torch.from_numpy(split_heads(value, manifest.cache)) for value in cache.values]
    past, ids = tuple(map(KeyValue, values[::2], values[1::2])), random.integers(4, 600, (rows, 1))
    logits, _ = runner.decode(ids, cache, never)
    errors = {}
    for graph in ("prefill", "decode"):
        model = dequantized_model(source, "int4", graph)
        expected, _ = model.decode_step(torch.from_numpy(ids), torch.from_numpy(cache.lengths), past)
        errors[graph] = rms_error(logits, expected)
    print(f"{name}, {rows} rows: error against the weights of " + str(errors))
    assert min(errors, key=errors.__getitem__) == ("prefill" if rows >= 4 else "decode")
    assert min(errors.values()) < MAX_ACTIVATION_ERROR


@pytest.mark.parametrize("precision", ROUNDED)
def test_the_manifest_says_how_matrices_are_stored(
    rounded: Callable[[str, str], Path], precision: str
) -> None:
    manifest = read_manifest(rounded(CASES[0], precision))
    assert manifest.precision.name == precision
    assert not manifest.precision.is_float32
    assert manifest.precision.matrices.decode == str(PRECISIONS[precision].decode)


def stored_arrays(graph: Path) -> dict[int, str]:
    """Return the names of the arrays that a graph reads from its weight file, by offset."""
    stored = ((name, value.const_value) for name, value in ir.load(graph).graph.initializers.items())
    return {tensor.offset or 0: name for name, tensor in stored if isinstance(tensor, ir.ExternalTensor)}


@pytest.mark.parametrize("precision", ROUNDED)
def test_what_graphs_share_is_stored_once(rounded: Callable[[str, str], Path], precision: str) -> None:
    folder = rounded(CASES[0], precision)
    prefill, decode = stored_arrays(folder / "prefill.onnx"), stored_arrays(folder / "decode.onnx")
    if PRECISIONS[precision].prefill == PRECISIONS[precision].decode:
        assert prefill == decode
    else:
        separate = [name for offset, name in decode.items() if offset not in prefill]
        assert all("_proj.weight.int4" in name for name in separate)
        assert len(separate) == 2 * 5 * 2  # codes and scales of each matrix of two layers


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_flipped_bit_of_a_code_is_found(
    rounded: Callable[[str, str], Path], checkpoint: Folders, tmp_path: Path, precision: str
) -> None:
    """Only the comparison of stored numbers detects it; its effect on outputs is too small."""
    folder = tmp_path / "bundle"
    shutil.copytree(rounded(CASES[0], precision), folder)
    manifest: Manifest = read_manifest(folder)
    weights = folder / "decoder.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(MismatchError, match=r"1 of [0-9]+ stored tensors differ"):
        self_check(folder, manifest, open_source(checkpoint(CASES[0])), lambda _: None)

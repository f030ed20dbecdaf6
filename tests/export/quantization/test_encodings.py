"""Quantised matrices, compared with NumPy and with the results of onnxruntime's operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from dequantized_model import fake_quantize
from numpy.typing import NDArray

from paligemma_onnx.export.precisions import BlockQuantized, Float32, Int8PerChannel, WeightFormat
from paligemma_onnx.export.quantization import encodings
from paligemma_onnx.export.quantization.encodings import array_layouts, encode
from paligemma_onnx.runtime.bundle.dtypes import DTYPES
from paligemma_onnx.runtime.engine.int8_overflow import configure_int8

FORMATS = [
    Int8PerChannel(),
    BlockQuantized(4, 16),
    BlockQuantized(4, 32),
    BlockQuantized(4, 128),
    BlockQuantized(8, 32),
    BlockQuantized(8, 128),
]
SHAPES = [(24, 64), (40, 200), (7, 33)]  # whole blocks, a partial block, odd sizes


def matrix(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return weights * torch.linspace(0.1, 3, shape[0])[:, None]  # outputs with different ranges


def arrays(
    tensor: torch.Tensor, format: WeightFormat, *, transposed: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the arrays that `encode` writes, by suffix of their names."""
    layouts = array_layouts(tuple(tensor.shape), format, transposed=transposed)
    content = [b"" for _ in layouts]
    for array, piece in encode(tensor, format, transposed=transposed):
        content[array] += bytes(piece)
    assert [len(part) for part in content] == [layout.length for layout in layouts]
    return {
        layout.suffix: np.frombuffer(part, DTYPES[layout.dtype].storage).reshape(layout.shape)
        for layout, part in zip(layouts, content, strict=True)
    }


def dequantize(stored: dict[str, NDArray[Any]], format: WeightFormat, shape: tuple[int, int]) -> NDArray[Any]:
    """Dequantise with NumPy as the operators' specification describes it."""
    if isinstance(format, Int8PerChannel):
        return (stored[".int8"] * stored[".int8.scales"]).T
    assert isinstance(format, BlockQuantized)
    name = f".int{format.bits}x{format.block_size}"
    codes = stored[name].astype(np.int64)
    if format.bits == 4:
        codes = np.stack([codes % 16, codes // 16], axis=-1).reshape(*codes.shape[:2], -1)
    values = (codes - 2 ** (format.bits - 1)) * stored[f"{name}.scales"][:, :, None]
    return values.reshape(shape[0], -1)[:, : shape[1]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_codes_times_scales_are_the_weights(format: WeightFormat, shape: tuple[int, int]) -> None:
    weights = matrix(shape)
    values = dequantize(arrays(weights, format), format, shape)
    np.testing.assert_allclose(values, fake_quantize(weights, format).numpy(), rtol=1e-6, atol=1e-7)
    bits = 4 if isinstance(format, BlockQuantized) and format.bits == 4 else 8
    error = np.abs(values - weights.numpy()).max(axis=1) / np.abs(weights.numpy()).max(axis=1)
    step = 2.0 ** (1 - bits)
    assert (error <= 1.5 * step).all()  # the least-squares scale may clip the largest weight of a block
    assert np.median(error) <= 0.75 * step


@pytest.mark.parametrize(("bits", "share"), [(4, 0.8), (8, 1.0)])
def test_less_is_lost_than_by_dividing_by_the_largest(bits: Any, share: float) -> None:
    weights = matrix((64, 512)).numpy()
    blocks = weights.reshape(64, -1, 32)
    step = np.abs(blocks).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    reference = np.square(np.round(blocks / step) * step - blocks).mean()
    error = np.square(
        fake_quantize(torch.from_numpy(weights), BlockQuantized(bits, 32)).numpy() - weights
    ).mean()
    print(f"int{bits}: squared error {error / reference:.2f} of that of round-to-nearest")
    assert error < share * reference


def test_what_fits_is_exact() -> None:
    codes = torch.arange(-8, 8.0).repeat(3, 2)
    scales = torch.tensor([[0.5], [3.0], [-2.0]])
    assert torch.equal(fake_quantize(codes * scales, BlockQuantized(4, 32)), codes * scales)
    assert torch.equal(fake_quantize(torch.zeros(2, 32), BlockQuantized(4, 16)), torch.zeros(2, 32))
    assert torch.equal(fake_quantize(torch.zeros(2, 32), Int8PerChannel()), torch.zeros(2, 32))


@pytest.mark.parametrize("format", [Float32(), *FORMATS], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch, format: WeightFormat, transposed: bool) -> None:
    weights = matrix((40, 200)).to(torch.bfloat16)
    whole = arrays(weights, format, transposed=transposed)
    monkeypatch.setattr(encodings, "MAX_PIECE_BYTES", 1000)  # one row
    for suffix, array in arrays(weights, format, transposed=transposed).items():
        assert np.array_equal(array, whole[suffix])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("format", [Int8PerChannel(), BlockQuantized(4, 32), BlockQuantized(8, 32)], ids=str)
def test_a_weight_that_is_no_number_stays_none(format: WeightFormat, broken: float) -> None:
    weights = matrix((4, 64))
    weights[2, 5] = broken
    with np.errstate(invalid="ignore"):
        values = dequantize(arrays(weights, format), format, (4, 64))
    assert not np.isfinite(values[2, :32]).any()
    assert np.isfinite(values[[0, 1, 3]]).all()


def run_operator(name: str, inputs: dict[str, NDArray[Any]], attributes: dict[str, int]) -> NDArray[Any]:
    """Run one contrib operator of onnxruntime; `x` is an input, the others are initializers."""
    values = {
        key: ir.Value(
            name=key,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=None if key == "x" else ir.tensor(array, name=key),
        )
        for key, array in inputs.items()
    }
    node = ir.node(name, list(values.values()), attributes, domain="com.microsoft")
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    stored = [value for key, value in values.items() if key != "x"]
    graph = ir.Graph(
        [values["x"]] if "x" in values else [],
        node.outputs,
        nodes=[node],
        initializers=stored,
        opset_imports={"": 20, "com.microsoft": 1},
        name="one",
    )
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    options = onnxruntime.SessionOptions()
    configure_int8(options, onnxruntime)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, {"x": inputs["x"]})[0]
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "format", [format for format in FORMATS if isinstance(format, BlockQuantized)], ids=str
)
def test_matmulnbits_reads_blocks(format: BlockQuantized, shape: tuple[int, int]) -> None:
    weights, x = matrix(shape), matrix((5, shape[1]), seed=1).numpy()
    codes, scales = arrays(weights, format).values()
    attributes = {"K": shape[1], "N": shape[0], "bits": format.bits, "block_size": format.block_size}
    actual = run_operator("MatMulNBits", {"x": x, "codes": codes, "scales": scales}, attributes)
    expected = x @ fake_quantize(weights, format).numpy().T
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "format", [BlockQuantized(4, 16), BlockQuantized(4, 64), BlockQuantized(8, 64)], ids=str
)
def test_gatherblockquantized_reads_rows(format: BlockQuantized) -> None:
    embedding, ids = matrix((24, 64)), np.array([[3, 0], [23, 3]])
    codes, scales = arrays(embedding, format).values()
    attributes = {"bits": format.bits, "block_size": format.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = {"rows": codes.reshape(24, -1), "x": ids, "scales": scales}
    actual = run_operator("GatherBlockQuantized", inputs, attributes)
    np.testing.assert_allclose(actual, fake_quantize(embedding, format).numpy()[ids], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dynamicquantizematmul_reads_outputs(shape: tuple[int, int]) -> None:
    weights = matrix(shape)
    # Integers that span the range of 8 bits are quantised without rounding.
    x = np.random.default_rng(0).integers(-127, 129, (5, shape[1])).astype(np.float32)
    x[0, :2] = -127, 128
    scales, codes = arrays(weights, Int8PerChannel()).values()
    actual = run_operator("DynamicQuantizeMatMul", {"x": x, "codes": codes, "scales": scales}, {})
    expected = x @ fake_quantize(weights, Int8PerChannel()).numpy().T
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())

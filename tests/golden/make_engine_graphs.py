"""Make the graphs of runtime/engine/: `python tests/golden/make_engine_graphs.py` overwrites the three files.

They are committed because the runtime does not depend on the onnx library. A test compares the files with
what this script makes.

gather.onnx     Gather and Reshape: image features of each row of a batch (gather_features.py)
zeros.onnx      ConstantOfShape: allocates GPU memory (memory.py)
overflow.onnx   DynamicQuantizeMatMul with the largest weights (int8_overflow.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parents[2] / "runtime" / "engine"
ONNX_DOMAIN, ONNX_OPSET = "", 20
ORT_DOMAIN, ORT_OPSET = "com.microsoft", 1  # onnxruntime's own operators
IR_VERSION = 10  # the oldest with opset 20
OVERFLOW_WIDTH, OVERFLOW_WEIGHT = 64, 127


def serialize(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    domains: Sequence[tuple[str, int]] = ((ONNX_DOMAIN, ONNX_OPSET),),
) -> bytes:
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def gather() -> bytes:
    """Gather float32[images, tokens, width] by int64[batch, k] to float32[batch, k * tokens, width]."""
    nodes = [
        helper.make_node("Gather", ["features", "pictures"], ["apart"], axis=0),
        helper.make_node("Shape", ["pictures"], ["batch"], start=0, end=1),
        helper.make_node("Shape", ["features"], ["width"], start=2, end=3),
        helper.make_node("Concat", ["batch", "rest", "width"], ["shape"], axis=0),
        helper.make_node("Reshape", ["apart", "shape"], ["rows"]),
    ]
    features = helper.make_tensor_value_info(
        "features", TensorProto.FLOAT, ["pictures_seen", "image_tokens", "width"]
    )
    images = helper.make_tensor_value_info("pictures", TensorProto.INT64, ["batch", "pictures_shown"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "tokens", "width"])
    rest = helper.make_tensor("rest", TensorProto.INT64, [1], [-1])
    return serialize("gather", nodes, [features, images], [rows], [rest])


def zeros() -> bytes:
    """Make int64[words] of zeros from int64[1], the number of words."""
    value = helper.make_tensor("value", TensorProto.INT64, [1], [0])
    node = helper.make_node("ConstantOfShape", ["words"], ["memory"], value=value)
    words = helper.make_tensor_value_info("words", TensorProto.INT64, [1])
    memory = helper.make_tensor_value_info("memory", TensorProto.INT64, ["words"])
    return serialize("zeros", [node], [words], [memory])


def overflow() -> bytes:
    """Multiply float32[rows, 64] with int8 weights of 127, whose scales are 1."""
    shape = (OVERFLOW_WIDTH, OVERFLOW_WIDTH)
    weights = numpy_helper.from_array(np.full(shape, OVERFLOW_WEIGHT, np.int8), "weights")
    scales = numpy_helper.from_array(np.ones(OVERFLOW_WIDTH, np.float32), "scales")
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "weights", "scales"], ["y"], domain=ORT_DOMAIN)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, OVERFLOW_WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, OVERFLOW_WIDTH])
    domains = ((ONNX_DOMAIN, ONNX_OPSET), (ORT_DOMAIN, ORT_OPSET))
    return serialize("overflow", [node], [x], [y], [weights, scales], domains)


GRAPHS = {"gather.onnx": gather, "zeros.onnx": zeros, "overflow.onnx": overflow}

if __name__ == "__main__":
    for file, make in GRAPHS.items():
        (FOLDER / file).write_bytes(make())
        print(FOLDER / file)

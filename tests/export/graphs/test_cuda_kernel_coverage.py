"""Every operator of a graph for CUDA has a CUDA kernel: by the engine's list, and by the engine itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
import pytest
from cuda_kernels import LIST, size_nodes, without_kernel
from fake_cuda import FakeCuda
from onnx import ModelProto, TensorProto, helper
from paths import ROOT

from paligemma_onnx.export.precisions import PRECISIONS

Bundles = Callable[[str, str], Path]
CASES = ("gemma_one_kv_head", "gemma2_window")
WIDE = "gemma2_window"  # whose heads are as wide as fused attention takes them
GRAPHS = ("vision_encoder", "prefill", "decode")  # the mask decoder's run on the CPU
ON_CUDA = [name for name, precision in PRECISIONS.items() if "cuda" in precision.devices]
BUNDLES = [(name, case) for name in ON_CUDA for case in CASES if name == "fp32" or case == WIDE]


def read(folder: Path, graph: str) -> ModelProto:
    return onnx.load(folder / f"{graph}.onnx", load_external_data=False)


@pytest.mark.parametrize(("precision", "case"), BUNDLES)
def test_every_operator_has_a_kernel(cuda_bundle: Bundles, precision: str, case: str) -> None:
    for graph in GRAPHS:
        model = read(cuda_bundle(case, precision), graph)
        assert without_kernel(model) == [], graph
        assert len(size_nodes(model)) < len(model.graph.node) / 2


# Prints the nodes that the engine puts on the CPU, by graph; graphs are named behind the bundle.
PLACED = """
import json, sys
import onnxruntime
from paligemma_onnx.runtime.engine.cuda_provider import provider_options
onnxruntime.set_default_logger_severity(4)
found = {}
for graph in sys.argv[2:]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        f"{sys.argv[1]}/{graph}.onnx", options,
        providers=[("CUDAExecutionProvider", provider_options(0, cuda_graph=False))], enable_fallback=0,
    )
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    found[graph] = [
        [part.ep_name, node.op_type, node.name]
        for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()
    ]
print(json.dumps(found))
"""


@pytest.mark.parametrize(("precision", "case"), BUNDLES)
def test_the_engine_leaves_only_sizes_to_the_cpu(
    gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str, case: str
) -> None:
    folder = cuda_bundle(case, precision)
    ended = gpu_python.script(PLACED, folder, *GRAPHS)
    assert ended.code == 0, ended.err
    for graph, nodes in json.loads(ended.out).items():
        elsewhere = {(kind, name) for provider, kind, name in nodes if provider != "CUDAExecutionProvider"}
        sizes = size_nodes(read(folder, graph))
        assert {one for one in elsewhere if one[1] not in sizes} == set(), graph
        assert len(nodes) > 2 * len(elsewhere)


def one_node(kind: str, dtype: int, domain: str = "", opset: int = 20, inputs: int = 1) -> ModelProto:
    """A graph of one operator, with inputs of one type."""
    names = [f"x{index}" for index in range(inputs)]
    node = helper.make_node(kind, names, ["y"], name="only", domain=domain)
    values = [helper.make_tensor_value_info(name, dtype, None) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "one", values, [output]), opset_imports=opsets)


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (one_node("Gelu", TensorProto.FLOAT), False),
        (one_node("Gelu", TensorProto.BFLOAT16), False),
        (one_node("MatMul", TensorProto.INT32, inputs=2), True),  # a type that it has no kernel for
        (one_node("Det", TensorProto.FLOAT, opset=22), True),  # an operator
        (one_node("Sqrt", TensorProto.BFLOAT16, opset=12), True),  # a version
        (one_node("DynamicQuantizeMatMul", TensorProto.FLOAT, "com.microsoft", inputs=2), True),
        (one_node("BiasGelu", TensorProto.FLOAT, "com.microsoft", inputs=2), False),
        (one_node("Conv", TensorProto.FLOAT, inputs=2), True),  # a kernel that needs cuDNN
    ],
)
def test_what_has_no_kernel_is_found(model: ModelProto, missing: bool) -> None:
    assert bool(without_kernel(model)) == missing


def test_the_list_is_of_the_engine_that_is_tested() -> None:
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"onnxruntime-gpu=={json.loads(LIST.read_text())['onnxruntime-gpu']}" in pinned
    with pytest.raises(PackageNotFoundError):
        version("onnxruntime-gpu")  # never both engines in one environment

"""Every operator of the CUDA graphs has a CUDA kernel, by a list of kernels and by onnxruntime itself."""

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

pytestmark = pytest.mark.slow

Bundles = Callable[[str, str], Path]
CASES = ("gemma_one_kv_head", "gemma2_window")
WIDE = "gemma2_window"  # its heads have a width that fused attention supports
GRAPHS = ("vision_encoder", "prefill", "decode")  # the mask decoder runs on the CPU
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


# Print the provider, operator and name of every node, by graph. Arguments: the bundle and its graphs.
PLACEMENT = """
import json, sys
import onnxruntime
from paligemma_onnx.runtime.engine.cuda_provider import provider_options
onnxruntime.set_default_logger_severity(4)
placement = {}
for graph in sys.argv[2:]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        f"{sys.argv[1]}/{graph}.onnx", options,
        providers=[("CUDAExecutionProvider", provider_options(0, cuda_graph=False))], enable_fallback=0,
    )
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    placement[graph] = [
        [part.ep_name, node.op_type, node.name]
        for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()
    ]
print(json.dumps(placement))
"""


@pytest.mark.parametrize(("precision", "case"), BUNDLES)
def test_the_engine_leaves_only_sizes_to_the_cpu(
    gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str, case: str
) -> None:
    folder = cuda_bundle(case, precision)
    ended = gpu_python.script(PLACEMENT, folder, *GRAPHS)
    assert ended.code == 0, ended.err
    for graph, nodes in json.loads(ended.out).items():
        not_on_cuda = {(kind, name) for provider, kind, name in nodes if provider != "CUDAExecutionProvider"}
        shape_nodes = size_nodes(read(folder, graph))
        assert {(kind, name) for kind, name in not_on_cuda if name not in shape_nodes} == set(), graph
        assert len(nodes) > 2 * len(not_on_cuda)


def one_node(kind: str, dtype: int, domain: str = "", opset: int = 20, inputs: int = 1) -> ModelProto:
    """Return a graph of one operator whose inputs have one dtype."""
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
        (one_node("MatMul", TensorProto.INT32, inputs=2), True),  # no kernel for this dtype
        (one_node("Det", TensorProto.FLOAT, opset=22), True),  # no kernel for this operator
        (one_node("Sqrt", TensorProto.BFLOAT16, opset=12), True),  # no kernel for this opset version
        (one_node("DynamicQuantizeMatMul", TensorProto.FLOAT, "com.microsoft", inputs=2), True),
        (one_node("BiasGelu", TensorProto.FLOAT, "com.microsoft", inputs=2), False),
        (one_node("Conv", TensorProto.FLOAT, inputs=2), True),  # its kernel needs cuDNN
    ],
)
def test_what_has_no_kernel_is_found(model: ModelProto, missing: bool) -> None:
    assert bool(without_kernel(model)) == missing


def test_the_list_is_of_the_engine_that_is_tested() -> None:
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"onnxruntime-gpu=={json.loads(LIST.read_text())['onnxruntime-gpu']}" in pinned
    with pytest.raises(PackageNotFoundError):
        version("onnxruntime-gpu")  # both distributions must not be installed together

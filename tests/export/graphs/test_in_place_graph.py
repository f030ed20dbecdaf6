"""The nodes of a decoder with a KV cache that is updated in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from paligemma_onnx.runtime.bundle.manifest import read_manifest

pytestmark = pytest.mark.slow

# Nodes of a float32 layer. Gemma 2 has two more norms; quantised graphs scale the input of o_proj.
MAX_NODES = {"gemma_one_kv_head": 15, "gemma2_window": 17}


@pytest.mark.parametrize("name", MAX_NODES)
def test_what_the_graphs_are_made_of(in_place_bundle: Callable[[str], Path], name: str) -> None:
    """A layer has at most MAX_NODES nodes; two write into the cache, and one of two branches attends."""
    folder, layers = in_place_bundle(name), 2
    assert (folder / "prefill.onnx").read_bytes() == (folder / "decode.onnx").read_bytes()
    decode = onnx.load(folder / "decode.onnx", load_external_data=False)
    imported = {opset.domain: opset.version for opset in decode.opset_import}
    assert imported == {"": 24, "com.microsoft": 1}
    counts = Counter(node.op_type for node in decode.graph.node)
    required = {"If": layers, "RotaryEmbedding": 2 * layers, "TensorScatter": 2 * layers}
    assert required.items() <= counts.items()
    assert not {"Attention", "ScatterElements", "Softmax", "Transpose"} & counts.keys()
    inside = [index for index, node in enumerate(decode.graph.node) if node.op_type == "If"]
    assert inside[1] - inside[0] <= MAX_NODES[name]
    onnx.checker.check_model(str(folder / "decode.onnx"))
    assert read_manifest(folder).cache.update == "in_place"

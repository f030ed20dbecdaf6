"""The runtimes that `conformance` knows, in the order of its table."""

from __future__ import annotations

from . import iree_cpu, onnx_reference, openvino_cpu, tract_cpu
from .interface import Adapter
from .javascript_worker import start_worker

ADAPTERS = (
    Adapter("onnx", "pip install onnx", onnx_reference.start),
    Adapter("openvino", "pip install openvino", openvino_cpu.start),
    Adapter("tract", "pip install tract", tract_cpu.start),
    Adapter("iree", "pip install iree-base-compiler iree-base-runtime onnx", iree_cpu.start),
    Adapter("onnxruntime-node", "npm install onnxruntime-node", start_worker("onnxruntime_node.mjs")),
    Adapter("onnxruntime-web", "npm install onnxruntime-web", start_worker("onnxruntime_web.mjs")),
    Adapter(
        "webgpu",
        "npm install onnxruntime-web playwright-core && npx playwright-core install chromium",
        start_worker("webgpu.mjs"),
    ),
)

"""Export a PaliGemma checkpoint as a bundle of ONNX graphs, and compare the bundle with the checkpoint."""

import paligemma_onnx.runtime  # noqa: F401  disables telemetry before another library imports onnxruntime

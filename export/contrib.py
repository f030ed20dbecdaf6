"""onnxruntime's own operators, which stand in no version of ONNX (onnxruntime, docs/ContribOperators.md)."""

DOMAIN, VERSION = "com.microsoft", 1

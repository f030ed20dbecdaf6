"""Runs an exported PaliGemma bundle with onnxruntime: no torch, no transformers."""

"""Turns a PaliGemma checkpoint into a bundle of three ONNX graphs, and proves the bundle right."""

"""Export a PaliGemma checkpoint as a bundle of ONNX graphs, and compare the bundle with the checkpoint."""

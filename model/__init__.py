"""PaliGemma 1 and 2 in PyTorch, written to be read."""

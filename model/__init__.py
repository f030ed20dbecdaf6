"""PyTorch implementation of PaliGemma 1 and 2, from which the exported graphs are traced."""

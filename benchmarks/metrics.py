"""Names of the figures that one round measures; all systems use the same names.

This module imports only the standard library, because processes in the environments of other tools import it.
"""

from __future__ import annotations

# The tokenizer of vocabulary.py encodes this prompt as 8 tokens, including BOS and newline. With 256 image
# tokens, a sequence has 264 tokens.
PROMPT = "detect cat"
Metrics = dict[str, float]  # figures by name
LOAD_S = "load_s"  # seconds for loading the model in a running process
COMPILE_S = "compile_s"  # seconds of the first request to a compiled model
STAGES = ("vision_s", "prefill_s", "time_to_first_token_s")


def stage_at_batch(stage: str, images: int) -> str:
    """Return the name of a figure: seconds of a stage in a request with the given number of images."""
    return stage if images == 1 else f"{stage}_batch_{images}"


def step_at_batch(images: int) -> str:
    """Return the name of a figure: seconds of a decode step of a batch with one sequence per image."""
    return f"step_s_{images}"


def step_at_past(slots: int) -> str:
    """Return the name of a figure: seconds of a decode step with the given number of cached tokens."""
    return f"step_s_past_{slots}"


def prefill_of(tokens: int) -> str:
    """Return the name of a figure: seconds of a prefill of the given number of tokens."""
    return f"prefill_s_{tokens}"


def device_memory(images: int | None) -> str:
    """Return the name of a figure: bytes of GPU memory in use after a request with `images` images.

    If `images` is None, the figure is the memory in use after loading.
    """
    return "device_bytes_loaded" if images is None else f"device_bytes_{images}"

"""Names of the figures of one round, the same for every system.

Imports the standard library only: processes of other environments use it too.
"""

from __future__ import annotations

# Eight tokens with the tokenizer of vocabulary.py, BOS and newline included: with 256 image tokens, 264.
PROMPT = "detect cat"
Metrics = dict[str, float]  # by name
LOAD_S = "load_s"  # seconds to load, in a process that runs already
COMPILE_S = "compile_s"  # seconds of the first request to a compiled model
STAGES = ("vision_s", "prefill_s", "time_to_first_token_s")


def stage_at_batch(stage: str, images: int) -> str:
    """Return the name of a stage's seconds in a request of that many images."""
    return stage if images == 1 else f"{stage}_batch_{images}"


def step_at_batch(images: int) -> str:
    """Return the name of the seconds of a decode step of that many sequences."""
    return f"step_s_{images}"


def step_at_past(slots: int) -> str:
    """Return the name of the seconds of a decode step with that many cached tokens."""
    return f"step_s_past_{slots}"


def prefill_of(tokens: int) -> str:
    """Return the name of the seconds of a prefill of that many tokens."""
    return f"prefill_s_{tokens}"


def device_memory(images: int | None) -> str:
    """Return the name of the bytes of GPU memory in use after loading (None) or after a request."""
    return "device_bytes_loaded" if images is None else f"device_bytes_{images}"

"""Shapes, colours, textures and printed words of scenes, and the pairs held out from training."""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

# RGB, 8 bits per channel. The colours are far enough apart that they stay distinct when jittered by up to
# MAX_TINT.
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 50),
    "green": (40, 150, 60),
    "cyan": (60, 200, 220),
    "blue": (40, 70, 200),
    "purple": (130, 50, 160),
    "pink": (250, 130, 190),
}
MAX_TINT = 14  # largest random offset per channel, in levels of 0 to 255

TEXTURES = ("plain", "striped", "dotted")

WORDS = (
    *("cat", "dog", "sun", "map", "tea", "bus", "key", "box", "cup", "hat", "pig", "owl"),
    *("milk", "fish", "bird", "lamp", "rain", "tree", "ship", "door", "gold", "king", "salt", "wind"),
)
MAX_NUMBER = 99  # printed numbers are drawn from 0 to MAX_NUMBER

# These pairs never occur in a training scene, although each of their colours and shapes does, in other
# pairs. They test whether the model has learned colours and shapes, or has memorised a list of pairs.
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "square"),
        ("green", "cross"),
        ("blue", "triangle"),
        ("purple", "circle"),
    }
)

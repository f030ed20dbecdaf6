"""What a scene can hold, and which combinations of colour and shape training never shows."""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

# RGB of 8 bits a channel. Far enough from each other that the jitter of `TINT` never makes two meet.
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
TINT = 14  # levels a channel may differ from the colour's own

TEXTURES = ("plain", "striped", "dotted")

WORDS = (
    *("cat", "dog", "sun", "map", "tea", "bus", "key", "box", "cup", "hat", "pig", "owl"),
    *("milk", "fish", "bird", "lamp", "rain", "tree", "ship", "door", "gold", "king", "salt", "wind"),
)
LARGEST_NUMBER = 99  # numbers from 0 are printed too

# Never together in a training scene; each colour and each shape is, with others. For the honest question of
# whether the model has learnt colours and shapes or a list of their pairs.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "square"),
        ("green", "cross"),
        ("blue", "triangle"),
        ("purple", "circle"),
    }
)

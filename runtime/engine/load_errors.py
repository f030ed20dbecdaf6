"""Name the cause in onnxruntime's message about a graph that does not load."""

from __future__ import annotations

import re

_MAX_CHARACTERS = 200  # length of a name from the graph in a message

# Texts of onnxruntime 1.30 to 1.32. Each group is a name from the graph.
_CAUSES = (
    (
        re.compile(r"Unsupported model IR version|only \*guarantees\* support for models stamped"),
        "it was made for a newer onnxruntime; install one with `pip install -U onnxruntime` "
        "(onnxruntime-gpu for CUDA)",
    ),
    (
        re.compile(r'for initializer: (.+?)\. Error: .*External data path[\w ]*: "(.*?)"', re.DOTALL),
        "the weights of {} are in {}, which is missing or outside the bundle; copy it or export it again",
    ),
    (
        re.compile(r"for initializer: (.+?)\. Error: .*Absolute path", re.DOTALL),
        "the weights of {} are outside the bundle; export it again",
    ),
    (
        re.compile(r"External initializer: (.+?) offset: .*out of bounds", re.DOTALL),
        "the weights of {} lie beyond the end of their file; copy or export the bundle again",
    ),
    (
        re.compile(r"Fatal error: (.{1,200}?)\(-?\d+\) is not a registered function/op"),
        "onnxruntime has no operator {}; export the checkpoint again",
    ),
    (
        re.compile(r"No Op registered for (.{1,200}?) with domain_version"),
        "onnxruntime has no operator {}; export the checkpoint again",
    ),
)


def load_problem(text: str) -> str | None:
    """Return a phrase that names the cause and the remedy; None if the text is not known.

    Args:
        text: message of onnxruntime's exception.
    """
    for pattern, phrase in _CAUSES:
        if match := pattern.search(text):
            return phrase.format(*(ascii(name)[:_MAX_CHARACTERS] for name in match.groups()))
    return None

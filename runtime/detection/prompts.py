"""Prompts of `detect` and `segment` for given labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import PromptError
from ..text.prompt_prefix import drop_prefix


def task_prompt(task: str, labels: str | Sequence[str]) -> str:
    """Return the prompt of a task for some labels: `detect cat ; dog`.

    Args:
        task: `detect` or `segment`.
        labels: text with labels separated by semicolons, or a list or tuple of labels. The text may also be
            the whole prompt, with the task and optionally `<image>` and `<bos>` before the labels.

    Raises:
        PromptError: no label is given, or a label is not text or contains a semicolon.
    """
    if isinstance(labels, str):
        listed: Sequence[str] = _without_task(task, labels).split(";")
    else:
        listed = labels
    if not isinstance(listed, list | tuple) or not all(isinstance(label, str) for label in listed):
        raise PromptError("labels must be text (str), or a list or tuple of texts")
    if any(";" in label for label in listed):
        raise PromptError("a label contains a semicolon, which separates labels; give them as separate items")
    stripped = [label.strip() for label in listed if label.strip()]
    if not stripped:
        raise PromptError(f"no label to {task} was given; give labels, such as 'cat ; dog'")
    return f"{task} {' ; '.join(stripped)}"


def _without_task(task: str, prompt: str) -> str:
    """Return the labels of a text that is either the labels or the whole prompt."""
    text = drop_prefix(prompt, 1)
    match = re.match(rf"\s*{task}(?:\s+|$)", text, re.IGNORECASE)
    return text if match is None else text[match.end() :]

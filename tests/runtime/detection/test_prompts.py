"""Labels and whole prompts that become the prompt of a task."""

from __future__ import annotations

from typing import Any

import pytest

from paligemma_onnx.runtime.detection.prompts import task_prompt
from paligemma_onnx.runtime.errors import PromptError


@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize(
    "text",
    [
        "cat ; dog",
        "TASK cat ; dog",
        "  TASK\tcat;dog ",
        "TASK cat ; dog\n",
        "Task cat ; dog",
        "<image>TASK cat ; dog",
        "<image><bos>TASK cat ; dog",
        "<bos>cat ; dog",
        ["cat", "dog"],
        ("cat ", " dog"),
    ],
)
def test_the_task_is_written_once(task: str, text: Any) -> None:
    labels = text.replace("TASK", task).replace("Task", task.title()) if isinstance(text, str) else text
    assert task_prompt(task, labels) == f"{task} cat ; dog"


@pytest.mark.parametrize("label", ["detective", "detect-o-meter", "segment cat", "a detect sign"])
def test_labels_that_look_like_the_task(label: str) -> None:
    assert task_prompt("detect", label) == f"detect {label}"


def test_an_item_of_a_list_is_a_label() -> None:
    assert task_prompt("segment", ["segment of an orange"]) == "segment segment of an orange"


@pytest.mark.parametrize("text", ["detect", " detect ", "detect ;", "<image>detect"])
def test_the_task_alone(text: str) -> None:
    with pytest.raises(PromptError, match="no label to detect was given"):
        task_prompt("detect", text)


def test_two_image_tokens() -> None:
    with pytest.raises(PromptError, match="begins with 2 <image>"):
        task_prompt("detect", "<image><image>detect cat")

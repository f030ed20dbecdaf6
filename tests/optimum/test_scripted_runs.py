"""`ORTPaliGemma.generate` with scripted logits: the calls that it makes of the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted_runner import STOP, scripted_model

from paligemma_onnx.optimum import ORTPaliGemma
from paligemma_onnx.optimum.bundle_folder import BundleFolder
from paligemma_onnx.runtime import NumericsError

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def scripted(model: ORTPaliGemma, folder: Path, *script: list[Any], **facts: Any) -> tuple[ORTPaliGemma, Any]:
    replaced = scripted_model(model.model, *script, **facts)
    return ORTPaliGemma(replaced, BundleFolder(folder, folder)), replaced.runner


def test_the_cache_is_released(model: ORTPaliGemma, shipped_bundle: Path, inputs: Any) -> None:
    answering, runner = scripted(model, shipped_bundle, [20, 30, STOP])
    ids = answering.generate(**inputs)
    assert ids[0, inputs["input_ids"].shape[1] :].tolist() == [20, 30, 1]
    assert runner.released is True


@pytest.mark.parametrize("logits", [np.nan, np.inf, np.float32("-inf")])
def test_logits_that_are_not_finite_are_an_error(
    model: ORTPaliGemma, shipped_bundle: Path, inputs: Any, logits: float
) -> None:
    """transformers would take id 0. The memory of the cache is not used again: it may hold NaN."""
    failing, runner = scripted(model, shipped_bundle, [20, logits])
    with pytest.raises(NumericsError):
        failing.generate(**inputs)
    assert runner.released is False


def test_repeated_images_are_encoded_once(model: ORTPaliGemma, shipped_bundle: Path, inputs: Any) -> None:
    sampling, runner = scripted(model, shipped_bundle, *[[[0.0] * 1845, STOP]] * 3)
    torch.manual_seed(0)
    assert sampling.generate(**inputs, do_sample=True, num_return_sequences=3, max_new_tokens=2).shape[0] == 3
    assert runner.images == 1


def test_the_cache_has_the_slots_of_the_longest_answer(
    model: ORTPaliGemma, shipped_bundle: Path, batch: Any
) -> None:
    answering, runner = scripted(model, shipped_bundle, [20, 21, 22], [30, 31, 32], [40, 41, 42])
    answering.generate(**batch, max_new_tokens=3)
    assert runner.slots == batch["input_ids"].shape[1] + 3


def test_a_row_whose_context_is_full_waits_for_the_others(
    model: ORTPaliGemma, shipped_bundle: Path, batch: Any
) -> None:
    """The scripted runner checks that each row has a free slot in every step."""
    length = batch["input_ids"].shape[1]
    used = batch["attention_mask"].sum(dim=1)
    rows = [[20 + step for step in range(40)] for _ in range(3)]
    for row, row_used in zip(rows, used.tolist(), strict=True):
        row[length + 4 - row_used :] = []  # the runner expects no further ids of a row that has ended
    answering, runner = scripted(model, shipped_bundle, *rows, context_length=length + 4)
    ids = answering.generate(**batch)
    assert runner.slots == length + 4
    for row, row_used in zip(ids[:, length:].tolist(), used.tolist(), strict=True):
        count = length + 4 - row_used
        assert row[:count] == [20 + step for step in range(count)]
        assert set(row[count:]) <= {0}

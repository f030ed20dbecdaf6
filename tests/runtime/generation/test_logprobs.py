"""The scores of the tokens of an answer: their number, and NaN logits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scripted_runner import STOP, ids_of, scripted_model

from paligemma_onnx.runtime import NumericsError, PaliGemma, Request
from paligemma_onnx.runtime.cancellation import Cancellation

IMAGE = np.zeros((40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


def test_scores_notice_logits_that_a_restricted_answer_does_not(model: PaliGemma) -> None:
    """The graphs computed NaN for an id that no answer to the prompt may contain."""
    step = np.zeros(model.manifest.model.vocab_size, np.float32)
    step[ids_of(model, "left")[0]] = np.nan
    scripted = scripted_model(model, [step])
    assert scripted.generate(IMAGE, "detect cat", constrained=True, max_new_tokens=3).logprobs is None
    with pytest.raises(NumericsError, match=r"NaN.*this bundle is fp32"):
        scripted.generate(IMAGE, "detect cat", constrained=True, max_new_tokens=3, logprobs=True)


@pytest.mark.parametrize(("max_new_tokens", "reason"), [(50, "stop"), (2, "length")])
def test_each_token_of_an_answer_has_a_score(model: PaliGemma, max_new_tokens: int, reason: str) -> None:
    """In a batch whose rows end at different steps; the stop id has none."""
    longer, shorter = ids_of(model, "red square"), ids_of(model, "blue")
    scripted = scripted_model(model, [*longer, STOP], [*shorter, STOP, *longer])
    requests = [Request(IMAGE, "caption en"), Request(IMAGE, "caption en")]
    answers = scripted.generate_batch(requests, max_new_tokens=max_new_tokens, logprobs=True)
    assert answers[0].finish_reason == reason
    # The script gives its id the logit 1, and 0 to all others.
    expected = 1 - math.log(math.e + model.manifest.model.vocab_size - 1)
    for answer in answers:
        assert answer.logprobs == pytest.approx([expected] * len(answer.token_ids))


def test_scores_of_a_cancelled_answer(model: PaliGemma) -> None:
    cancel = Cancellation()
    stream = scripted_model(model, ids_of(model, "red square")).stream(
        IMAGE, "detect cat", logprobs=True, cancel=cancel
    )
    next(iter(stream))
    assert len(stream.result.logprobs or ()) == len(stream.result.token_ids) == 1
    cancel.cancel()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert len(stream.result.logprobs or ()) == len(stream.result.token_ids) == 1

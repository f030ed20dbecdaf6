"""`ORTPaliGemma.generate` against the `generate` of transformers' model, with the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from time_limits import HANG

from paligemma_onnx.optimum import ORTPaliGemma

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = [
    pytest.mark.slow,  # transformers takes 0.1 s per token on two idle cores
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
# float32 products are added in another order; see export/validation/compare.py
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(
    "prompt",
    ["caption en", "answer en what colour is the square?", "detect green circle", "segment purple star"],
)
def test_greedy_ids(
    model: ORTPaliGemma, reference: Any, processor: Any, scene: Image.Image, prompt: str
) -> None:
    inputs = processor(images=scene, text=f"<image>{prompt}", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=14)
    assert ids.dtype == torch.int64
    assert ids.shape[1] > inputs["input_ids"].shape[1] + 1
    assert torch.equal(ids, reference.generate(**inputs, max_new_tokens=14))


def test_rows_of_a_batch_equal_single_calls(model: ORTPaliGemma, reference: Any, batch: Any) -> None:
    ids = model.generate(**batch, max_new_tokens=8)
    assert torch.equal(ids, reference.generate(**batch, max_new_tokens=8))
    assert not batch["attention_mask"].all()
    for row, used in enumerate(batch["attention_mask"].bool()):
        single = model.generate(
            input_ids=batch["input_ids"][row][used][None],
            pixel_values=batch["pixel_values"][row][None],
            max_new_tokens=8,
        )
        answer, alone = ids[row, len(used) :], single[0, used.sum() :]
        assert torch.equal(answer[: len(alone)], alone)
        assert not answer[len(alone) :].any()  # `<pad>` is id 0


def test_padding_may_be_on_the_right(model: ORTPaliGemma, batch: Any) -> None:
    """transformers does not support this, and warns of it."""
    rows = list(zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True))
    right, mask = torch.zeros_like(batch["input_ids"]), torch.zeros_like(batch["attention_mask"])
    for row, (ids, used) in enumerate(rows):
        right[row, : used.sum()], mask[row, : used.sum()] = ids[used], 1
    width = right.shape[1]
    expected = model.generate(**batch, max_new_tokens=10)[:, width:]
    ids = model.generate(
        input_ids=right, attention_mask=mask, pixel_values=batch["pixel_values"], max_new_tokens=10
    )
    assert torch.equal(ids[:, width:], expected)
    assert torch.equal(ids[:, :width], right)


def test_several_images_per_prompt(
    model: ORTPaliGemma, reference: Any, processor: Any, scene: Image.Image
) -> None:
    other = Image.new("RGB", scene.size, "red")
    inputs = processor(images=[[scene, other]], text=["<image><image>caption en"], return_tensors="pt")
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=6), reference.generate(**inputs, max_new_tokens=6)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 1.5},
        {"do_sample": True, "temperature": 3.0, "top_k": 8, "num_return_sequences": 3},
        {"do_sample": True, "temperature": 2.0, "top_p": 0.7, "top_k": 0},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1, "min_new_tokens": 4},
        {"max_length": 74, "max_new_tokens": None},
        {"bad_words_ids": [[235]], "eos_token_id": [1, 108]},
    ],
)
def test_options_have_the_effect_that_transformers_gives_them(
    model: ORTPaliGemma, reference: Any, inputs: Any, options: dict[str, Any]
) -> None:
    """Sampling draws the same tokens with the same seed of torch."""
    answers = []
    for each in (model, reference):
        torch.manual_seed(7)
        answers.append(each.generate(**inputs, **{"max_new_tokens": 5, **options}))
    assert torch.equal(*answers)
    assert answers[0].shape[0] == options.get("num_return_sequences", 1)


def test_a_generation_config_counts_like_arguments(model: ORTPaliGemma, reference: Any, inputs: Any) -> None:
    config = transformers.GenerationConfig(max_new_tokens=5, repetition_penalty=1.5)
    assert torch.equal(
        model.generate(**inputs, generation_config=config),
        reference.generate(**inputs, generation_config=config),
    )
    assert model.generate(**inputs, generation_config=config).shape[1] == inputs["input_ids"].shape[1] + 5


def test_criteria_and_processors_of_the_caller(
    model: ORTPaliGemma, reference: Any, processor: Any, inputs: Any
) -> None:
    def penalize(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, ids[:, -1], -20.0)

    def long(ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.full((len(ids),), ids.shape[1] >= 71)

    for options in (
        {"logits_processor": [penalize]},
        {"stopping_criteria": [long]},
        {"stop_strings": ["green"], "tokenizer": processor.tokenizer},
        {"prefix_allowed_tokens_fn": lambda *_: [20, 30, 40]},
    ):
        ids = model.generate(**inputs, max_new_tokens=6, **options)
        assert torch.equal(ids, reference.generate(**inputs, max_new_tokens=6, **options)), options


def test_scores_and_logits(model: ORTPaliGemma, reference: Any, inputs: Any) -> None:
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    ours, theirs = (each.generate(**inputs, max_new_tokens=4, **options) for each in (model, reference))
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(theirs.logits), **TOLERANCE)
    arguments = (ours.sequences, ours.scores)
    log_probabilities = model.compute_transition_scores(*arguments, normalize_logits=True)
    expected = reference.compute_transition_scores(theirs.sequences, theirs.scores, normalize_logits=True)
    torch.testing.assert_close(log_probabilities, expected, **TOLERANCE)


class RecordingStreamer:
    """Records the calls that `generate` makes of a streamer."""

    def __init__(self) -> None:
        self.calls: list[list[int] | str] = []

    def put(self, value: torch.Tensor) -> None:
        self.calls.append(value.flatten().tolist())

    def end(self) -> None:
        self.calls.append("end")


def test_a_streamer_gets_the_same_calls(model: ORTPaliGemma, reference: Any, inputs: Any) -> None:
    streamers = RecordingStreamer(), RecordingStreamer()
    for each, streamer in zip((model, reference), streamers, strict=True):
        each.generate(**inputs, max_new_tokens=8, streamer=streamer)
    assert streamers[0].calls == streamers[1].calls
    assert len(streamers[0].calls) == 1 + 8 + 1


def test_text_streamers(
    model: ORTPaliGemma, processor: Any, inputs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = processor.batch_decode(model.generate(**inputs)[:, inputs["input_ids"].shape[1] :], True)[0]
    arguments = {"skip_prompt": True, "skip_special_tokens": True}
    model.generate(**inputs, streamer=transformers.TextStreamer(processor.tokenizer, **arguments))
    assert capsys.readouterr().out == text + "\n"
    streamer = transformers.TextIteratorStreamer(processor.tokenizer, **arguments, timeout=HANG)
    thread = Thread(target=model.generate, kwargs=dict(inputs, streamer=streamer))
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == text
    assert len(pieces) > 5


def test_threads_share_a_model(model: ORTPaliGemma, batch: Any, inputs: Any) -> None:
    expected = [model.generate(**each, max_new_tokens=8) for each in (batch, inputs)]
    answers: list[torch.Tensor] = [torch.empty(0)] * 2

    def run(place: int, call: Callable[[], torch.Tensor]) -> None:
        answers[place] = call()

    calls = [lambda each=each: model.generate(**each, max_new_tokens=8) for each in (batch, inputs)]
    threads = [Thread(target=run, args=(place, call)) for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, answers, expected))


def test_a_row_ends_where_the_context_is_full(
    model: ORTPaliGemma, processor: Any, scene: Image.Image
) -> None:
    """As in the runtime. `<eos>`, id 1, is suppressed, so that no row ends before."""
    context = model.model.manifest.model.context_length
    prompts = ["a " * 424, "a " * 428]
    inputs = processor(
        images=[scene] * 2, text=[f"<image>{prompt}" for prompt in prompts], padding=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=context, suppress_tokens=[1])
    padding = inputs["attention_mask"].shape[1] - inputs["attention_mask"].sum(dim=1)
    assert padding.max() > 1
    assert ids.shape[1] == context + padding.max()
    for row, prompt in zip(ids, prompts, strict=True):
        answer = model.model.generate(scene, prompt, max_new_tokens=context, suppress_tokens=[1])
        new_ids = row[inputs["input_ids"].shape[1] :][: len(answer.token_ids)]
        assert tuple(new_ids.tolist()) == answer.token_ids
        assert answer.finish_reason == "length"

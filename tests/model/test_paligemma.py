"""encode_image, prefill and decode_step as a whole, against transformers on the same weights.

transformers counts positions from 1 and this model from 0. Position 520 rotates a key by 520 rad, which
float32 represents to 3e-5; the rounding at 521 differs. This causes nearly all of the error: with the same
first position, the two agree to 1e-6.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import CASES
from closeness import assert_close, relative_error
from paired_models import paired_models
from torch import Tensor
from torch.nn.functional import pad

from paligemma_onnx.model.cache import Cache, KeyValue
from paligemma_onnx.model.generate import generate
from paligemma_onnx.model.paligemma import PaliGemma

PROMPT = (2, 300, 17, 451, 108)
ANSWER = (77, 301, 5, 420, 9, 610, 33, 250)  # longer than gemma2_window's window of 5
LOGITS = 2e-5  # of the largest logit; measured: up to 3.8e-6
SAME = 1e-5  # of the largest value, with another batch size; measured: up to 2e-6


def random_image(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(6)) * 2 - 1


def features_of(model: PaliGemma, count: int = 1) -> Tensor:
    """Return the features of `count` different images as one row, float32[1, N, D]."""
    side = model.config.vision_config.image_size
    images = torch.cat([random_image(side).roll(shift, -1) for shift in range(count)])
    return model.encode_image(images).flatten(0, 1)[None]


def transformers_logits(name: str, pixels: Tensor, suffix: tuple[int, ...]) -> Any:
    """Return the logits of the last prefix token and of each suffix token, from one call without a cache."""
    model = paired_models(name).reference
    image_tokens = paired_models(name).model.config.vision_config.num_patches * len(pixels)
    placeholders = [model.config.image_token_id] * image_tokens
    input_ids = torch.tensor([[*placeholders, *PROMPT, *suffix]])
    prefix = image_tokens + len(PROMPT)
    return model(
        input_ids=input_ids,
        pixel_values=pixels,
        attention_mask=torch.ones_like(input_ids),
        token_type_ids=(torch.arange(input_ids.shape[1])[None] >= prefix).long(),  # 0 prefix, 1 answer
        logits_to_keep=len(suffix) + 1,
    ).logits[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("images", [1, 2])
def test_cached_steps_equal_one_uncached_call_of_transformers(name: str, images: int) -> None:
    model = paired_models(name).model
    side = model.config.vision_config.image_size
    pixels = torch.cat([random_image(side).roll(shift, -1) for shift in range(images)])
    expected = transformers_logits(name, pixels, ANSWER)

    features = features_of(model, images)
    logits, cache = model.prefill(torch.tensor([PROMPT]), features, torch.tensor([len(PROMPT)]))
    assert_close(f"{name} prefill", logits[0], expected[0], LOGITS)
    lengths = torch.tensor([features.shape[1] + len(PROMPT)])
    for step, token in enumerate(ANSWER):
        logits, cache = model.decode_step(torch.tensor([[token]]), lengths + step, cache)
        assert_close(f"{name} step {step}", logits[0], expected[step + 1], LOGITS)
    assert cache[0].key.shape[2] == features.shape[1] + len(PROMPT) + len(ANSWER)


@pytest.mark.parametrize("name", CASES)
def test_steps_of_several_tokens_equal_one_uncached_call_of_transformers(name: str) -> None:
    """Rows have fewer new tokens than T in some steps: they are padded, and overwrite the padding later."""
    model = paired_models(name).model
    pixels = random_image(model.config.vision_config.image_size)
    expected = transformers_logits(name, pixels, ANSWER)
    features = features_of(model).expand(2, -1, -1)
    logits, cache = model.prefill(torch.tensor([PROMPT] * 2), features, torch.tensor([len(PROMPT)] * 2))
    first, used, padding = features.shape[1] + len(PROMPT), torch.tensor([0, 0]), 9
    for counts in ((3, 1), (1, 4), (4, 0), (0, 3)):
        tokens = max(counts)
        ids = torch.full((2, tokens), padding)
        for row, count in enumerate(counts):
            ids[row, :count] = torch.tensor(ANSWER[used[row] : used[row] + count])
        logits, cache = model.decode_step(ids, first + used, cache)
        for row, count in enumerate(counts):
            actual = logits.unflatten(0, (2, tokens))[row, :count]
            theirs = expected[1 + int(used[row]) :][:count]
            if count:
                assert_close(f"{name} row {row}, {count} tokens", actual, theirs, LOGITS)
        used += torch.tensor(counts)
    assert used.tolist() == [len(ANSWER)] * 2


def test_every_feature_of_the_window_case_is_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without caps, window or image, the logits differ far more than the bounds above allow."""
    name, pixels = "gemma2_window", random_image(224)
    expected = transformers_logits(name, pixels, ANSWER)[-1]
    theirs: Any = paired_models(name).reference
    changed = {"image": transformers_logits(name, torch.zeros_like(pixels), ANSWER)[-1]}
    for setting, owner, value in (
        ("final_logit_softcapping", theirs.config.text_config, None),
        ("sliding_window", theirs.config.text_config, 6),
        ("attn_logit_softcapping", theirs.model.language_model.layers[1].self_attn, None),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, setting, value)
            changed[setting] = transformers_logits(name, pixels, ANSWER)[-1]
    for setting, logits in changed.items():
        assert relative_error(logits, expected) > 100 * LOGITS, setting


def padded_prompts(lengths: Tensor, longest: int) -> Tensor:
    """Return rows of random ids; ids from a row's length on are padding, which may be any id."""
    return torch.randint(4, 600, (len(lengths), longest), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_a_padded_batch_equals_the_row_alone(name: str) -> None:
    model, lengths = paired_models(name).model, torch.tensor([3, 8, 5])
    features = torch.cat([features_of(model).roll(shift, 1) for shift in range(3)])
    prompts = padded_prompts(lengths, 8)
    logits, cache = model.prefill(prompts, features, lengths)
    slots = features.shape[1] + lengths

    # Padding slots must have no effect, so their values are made large.
    cache = tuple(KeyValue(*(fill_padding(tensor, slots) for tensor in layer)) for layer in cache)
    steps = torch.randint(4, 600, (6, 3, 1), generator=torch.Generator().manual_seed(8))
    batch = [logits]
    for step, ids in enumerate(steps):
        logits, cache = model.decode_step(ids, slots + step, cache)
        batch.append(logits)

    for row, length in enumerate(lengths.tolist()):
        logits, alone = model.prefill(prompts[[row], :length], features[[row]], lengths[[row]])
        assert_close(f"{name} row {row} prefill", batch[0][row], logits[0], SAME)
        for step, ids in enumerate(steps):
            logits, alone = model.decode_step(ids[[row]], slots[[row]] + step, alone)
            assert_close(f"{name} row {row} step {step}", batch[step + 1][row], logits[0], SAME)
        assert_same_cache(cache, alone, row)


def fill_padding(tensor: Tensor, lengths: Tensor) -> Tensor:
    padding = torch.arange(tensor.shape[2]) >= lengths[:, None]
    return torch.where(padding[:, None, :, None], 1e4, tensor)


def assert_same_cache(batch: Cache, alone: Cache, row: int) -> None:
    for layer, (together, single) in enumerate(zip(batch, alone, strict=True)):
        for kind in KeyValue._fields:
            slots = getattr(single, kind)
            assert_close(
                f"row {row} cache {layer} {kind}",
                getattr(together, kind)[[row], :, : slots.shape[2]],
                slots,
                SAME,
            )


def test_padding_ids_and_width_do_not_matter() -> None:
    model, length = paired_models("gemma_two_kv_heads").model, torch.tensor([len(PROMPT)])
    features = features_of(model)
    logits, _ = model.prefill(torch.tensor([PROMPT]), features, length)
    for width, filler in ((1, 0), (7, 655)):
        wider = pad(torch.tensor([PROMPT]), (0, width), value=filler)
        assert_close(f"{width} more", model.prefill(wider, features, length)[0], logits, SAME)


def test_the_vision_tower_runs_once_an_answer() -> None:
    model, calls = paired_models("gemma_two_kv_heads").model, []
    hook = model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        ids = generate(model, random_image(56), torch.tensor(PROMPT), max_new_tokens=12)
    finally:
        hook.remove()
    assert len(ids) == 12
    assert len(calls) == 1

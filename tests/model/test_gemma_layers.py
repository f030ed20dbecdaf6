"""Gemma and Gemma 2 module by module, against transformers on the same weights and against NumPy by hand.

The two sides sum in different orders, so a result may be off by a few roundings of its largest value (float32
rounds by 6e-8). Any other mistake causes an error above 1e-4.
"""

from __future__ import annotations

from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from closeness import assert_close
from paired_models import paired_models
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

from paligemma_onnx.model.attention import softcap
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.gemma import Gemma, RMSNorm
from paligemma_onnx.model.mask import prefix_mask, step_mask
from paligemma_onnx.model.presets import tiny_gemma
from paligemma_onnx.model.rotary import compute_rotation, inverse_frequencies, rotate

BOUND = 2e-6  # of the largest value; measured: up to 3e-7, mostly 0
GEMMAS = ("gemma_one_kv_head", "gemma_two_kv_heads", "gemma2_window")
TOKENS = 9


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def additive(mask: Tensor) -> Tensor:
    """Convert a bool mask to the form of transformers' eager attention, which adds it to the scores."""
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("name", GEMMAS)
def test_rms_norm(name: str) -> None:
    ours, theirs = (
        paired_models(name).model.language_model.norm,
        paired_models(name).reference.model.language_model.norm,
    )
    x = noise(2, TOKENS, 32)
    assert_close("norm", ours(x), theirs(x), BOUND)


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(32, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    for size in (1e-3, 1.0, 1e4):  # at 1e-3 the epsilon changes the result
        x = (noise(4, 32) * size).double().numpy()
        by_hand = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + norm.weight.detach().numpy())
        assert_close(f"norm of {size}", norm(torch.from_numpy(x).float()), by_hand, BOUND)


def test_norm_of_narrow_activations_is_computed_wide() -> None:
    """Squares of 300 overflow float16, whose largest value is 65504."""
    norm = RMSNorm(32, eps=1e-6)
    torch.nn.init.zeros_(norm.weight)
    ones = torch.full((1, 32), 300.0, dtype=torch.float16)
    assert norm(ones).dtype == torch.float16
    assert torch.equal(norm(ones), torch.ones_like(ones))


def test_rotation() -> None:
    theirs, config = paired_models("gemma2_window").reference.model.language_model, tiny_gemma().text_config
    positions = torch.tensor([[0, 1, 2, 3, 700, 8191], [5, 6, 7, 8, 9, 10]])
    cos, sin = theirs.rotary_emb(noise(1), positions)
    x, width = noise(2, 8, 6, 16), paired_models("gemma2_window").model.config.text_config.head_dim
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin)
    ours = rotate(x, compute_rotation(positions, inverse_frequencies(width, config.rope_theta)))
    assert_close("rotated", ours, expected, BOUND)


def test_rotation_by_hand() -> None:
    """Dimensions i and i + 4 are rotated by position * 10000 ** (-i / 4) radians."""
    x, position = noise(1, 1, 1, 8).double().numpy(), 11
    angle = position * 10_000.0 ** (-np.arange(4) / 4)
    first, second = x[..., :4], x[..., 4:]
    by_hand = np.concatenate(
        [
            first * np.cos(angle) - second * np.sin(angle),
            second * np.cos(angle) + first * np.sin(angle),
        ],
        axis=-1,
    )
    rotation = compute_rotation(torch.tensor([[position]]), inverse_frequencies(8, 10_000.0))
    assert_close("rotated by hand", rotate(torch.from_numpy(x).float(), rotation), by_hand, BOUND)


def test_scores_depend_on_distance_only() -> None:
    """Positions may therefore start anywhere: transformers starts at 1, this model at 0."""
    query, key = noise(1, 1, 1, 16), noise(1, 1, 1, 16, seed=4)
    frequencies = inverse_frequencies(16, 10_000.0)

    def score(query_position: int, key_position: int) -> Tensor:
        rotated = [
            rotate(x, compute_rotation(torch.tensor([[position]]), frequencies))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return (rotated[0] * rotated[1]).sum()

    assert_close("score one position on", score(41, 8), score(40, 7), BOUND)
    # float32 represents angles of 140 radians to 8e-6 only.
    assert_close("score 100 positions on", score(140, 107), score(40, 7), 1e-5)
    assert abs(score(41, 7) - score(40, 7)) > 1e-3


def test_softcap() -> None:
    x = np.linspace(-400, 400, 101)
    assert_close("softcap", softcap(torch.from_numpy(x).float(), 30.0), 30 * np.tanh(x / 30), BOUND)
    assert torch.equal(softcap(torch.from_numpy(x), None), torch.from_numpy(x))


@pytest.mark.parametrize("name", GEMMAS)
@pytest.mark.parametrize("index", [0, 1])
def test_layer_on_a_padded_prefix(name: str, index: int) -> None:
    """Two rows of 9 and 6 real tokens; every part of a layer, without a cache."""
    ours = paired_models(name).model.language_model
    theirs = paired_models(name).reference.model.language_model
    layer, their_layer = ours.layers[index], theirs.layers[index]
    x, lengths = noise(2, TOKENS, 32), torch.tensor([TOKENS, 6])
    mask, positions = prefix_mask(lengths, TOKENS), torch.arange(TOKENS)[None]
    rotation, their_rotation = compute_rotation(positions, ours.frequencies), theirs.rotary_emb(x, positions)
    their_mask = additive(mask.expand(2, 1, TOKENS, TOKENS))
    context = (rotation, mask, None, lengths)

    attended, _ = layer.self_attn(x, *context)
    expected, _ = their_layer.self_attn(x, position_embeddings=their_rotation, attention_mask=their_mask)
    assert_close(f"{name} attention {index}", attended, expected, BOUND)
    assert_close(f"{name} mlp {index}", layer.mlp(x), their_layer.mlp(x), BOUND)
    out, _ = layer(x, *context)
    expected = their_layer(x, position_embeddings=their_rotation, attention_mask=their_mask)
    assert_close(f"{name} layer {index}", out, expected, BOUND)


@pytest.mark.parametrize("name", GEMMAS)
@pytest.mark.parametrize("index", [0, 1])
def test_layer_on_one_token_and_a_cache(name: str, index: int) -> None:
    ours, theirs = (
        paired_models(name).model.language_model,
        paired_models(name).reference.model.language_model,
    )
    text, position = ours.config, torch.tensor([TOKENS])
    shape = (1, text.num_key_value_heads, TOKENS, text.head_dim)
    past = KeyValue(noise(*shape), noise(*shape, seed=5))
    x, cache = noise(1, 1, 32), DynamicCache()
    for layer in range(index + 1):
        cache.update(past.key, past.value, layer)
    mask = step_mask(position[None], TOKENS + 1, text.window(index))

    rotation = compute_rotation(position[None], ours.frequencies)
    out, present = ours.layers[index](x, rotation, mask, past, position)
    layer = theirs.layers[index]
    argument = "cache" if "cache" in signature(layer.forward).parameters else "past_key_values"  # before 5.24
    expected = layer(
        x,
        position_embeddings=theirs.rotary_emb(x, position[None]),
        attention_mask=additive(mask),
        **{argument: cache},
    )
    assert_close(f"{name} layer {index}", out, expected, BOUND)
    for kind, tensor, theirs_kind in (("key", present.key, "keys"), ("value", present.value, "values")):
        assert_close(f"{name} {kind} {index}", tensor, getattr(cache.layers[index], theirs_kind), BOUND)


@pytest.mark.parametrize("name", GEMMAS)
def test_embedding_scale(name: str) -> None:
    ids = torch.tensor([[2, 300, 648, 655]])
    theirs = paired_models(name).reference.get_input_embeddings()(ids)
    assert_close(name, paired_models(name).model.language_model.embed(ids, torch.float32), theirs, BOUND)


@pytest.mark.parametrize(
    ("width", "dtype", "scaled"),
    [
        (2048, torch.float32, np.float32(1.2734375) * np.float32(np.sqrt(2048))),
        (2048, torch.bfloat16, 57.5),  # 1.2734375 * 45.25; by 45.2548 it would be 57.75
        (2304, torch.bfloat16, 61.0),  # 1.2734375 * 48 = 61.125, to 8 bits
    ],
)
def test_embedding_scale_is_rounded_to_the_activations(width: int, dtype: torch.dtype, scaled: float) -> None:
    model = Gemma(replace(tiny_gemma().text_config, hidden_size=width, num_hidden_layers=0))
    torch.nn.init.constant_(model.embed_tokens.weight, 1.2734375)
    vectors = model.embed(torch.tensor([[7]]), dtype)
    assert vectors.dtype == dtype
    assert set(vectors.flatten().tolist()) == {float(scaled)}

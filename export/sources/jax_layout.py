"""Arrays of a JAX checkpoint of big_vision, and the tensors that they hold.

Sources: github.com/google-research/big_vision, models/vit.py and models/ppp/gemma.py for keys and axes;
transformers' convert_paligemma_weights_to_hf.py and convert_paligemma2_weights_to_hf.py for the order of the
axes of each tensor.

Layers are stacked along a first axis (`scan=True`), or each layer has arrays with its number in the key.

Axes, one letter each, lower case for SigLIP, upper case for the decoder; docs/notation.md has most of them:

    l, L  layers        d, D  width          f, F  width of the MLP      a, A  query heads
    h, H  head width    K  key-value heads   i  image tokens             V  rows of the embedding
    p, q  height and width of a patch        c  colours                  1, 2, 3  tensors in one array
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from paligemma_onnx.model.checkpoint.config_keys import MAX_LAYERS
from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING


@dataclass(frozen=True)
class Rule:
    """One array, and the tensors into which it is split along its layer axis and its digit axis."""

    key: str
    axes: str  # axes of the array
    order: str  # axes of a tensor, in its order; several of them may be flattened to one dimension
    names: tuple[str, ...]  # canonical names of the tensors; "{}" stands for the number of the layer

    def tensors(self, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the canonical name of each tensor and its index along the leading axes of the array.

        Args:
            layers: number of layers, if the array has an axis of layers.
        """
        is_stacked = self.axes[0] in "lL"
        has_digit = self.axes[is_stacked].isdigit()
        for layer in range(layers if is_stacked else 1):
            for position, name in enumerate(self.names):
                index = (*([layer] if is_stacked else []), *([position] if has_digit else []))
                yield name.format(layer), index


def _rule(key: str, axes: str, order: str, *names: str) -> Rule:
    return Rule(key, axes, order, names)


ROWS = "llm/embedder/input_embedding"
_OUTSIDE_LAYERS = (
    _rule("img/embedding/kernel", "pqcd", "dcpq", "vision_tower.embeddings.patch_embedding.weight"),
    _rule("img/embedding/bias", "d", "d", "vision_tower.embeddings.patch_embedding.bias"),
    _rule("img/pos_embedding", "1id", "id", "vision_tower.embeddings.position_embedding.weight"),
    _rule("img/Transformer/encoder_norm/scale", "d", "d", "vision_tower.post_layernorm.weight"),
    _rule("img/Transformer/encoder_norm/bias", "d", "d", "vision_tower.post_layernorm.bias"),
    _rule("img/head/kernel", "dD", "Dd", "multi_modal_projector.linear.weight"),
    _rule("img/head/bias", "D", "D", "multi_modal_projector.linear.bias"),
    _rule(ROWS, "VD", "VD", EMBEDDING),
    _rule("llm/final_norm/scale", "D", "D", "language_model.norm.weight"),
)
_ATTENTION = "MultiHeadDotProductAttention_0"
_VISION_LAYER = (
    _rule("LayerNorm_0/scale", "d", "d", "layer_norm1.weight"),
    _rule("LayerNorm_0/bias", "d", "d", "layer_norm1.bias"),
    _rule("LayerNorm_1/scale", "d", "d", "layer_norm2.weight"),
    _rule("LayerNorm_1/bias", "d", "d", "layer_norm2.bias"),
    _rule("MlpBlock_0/Dense_0/kernel", "df", "fd", "mlp.fc1.weight"),
    _rule("MlpBlock_0/Dense_0/bias", "f", "f", "mlp.fc1.bias"),
    _rule("MlpBlock_0/Dense_1/kernel", "fd", "df", "mlp.fc2.weight"),
    _rule("MlpBlock_0/Dense_1/bias", "d", "d", "mlp.fc2.bias"),
    _rule(f"{_ATTENTION}/query/kernel", "dah", "ahd", "self_attn.q_proj.weight"),
    _rule(f"{_ATTENTION}/query/bias", "ah", "ah", "self_attn.q_proj.bias"),
    _rule(f"{_ATTENTION}/key/kernel", "dah", "ahd", "self_attn.k_proj.weight"),
    _rule(f"{_ATTENTION}/key/bias", "ah", "ah", "self_attn.k_proj.bias"),
    _rule(f"{_ATTENTION}/value/kernel", "dah", "ahd", "self_attn.v_proj.weight"),
    _rule(f"{_ATTENTION}/value/bias", "ah", "ah", "self_attn.v_proj.bias"),
    _rule(f"{_ATTENTION}/out/kernel", "ahd", "dah", "self_attn.out_proj.weight"),
    _rule(f"{_ATTENTION}/out/bias", "d", "d", "self_attn.out_proj.bias"),
)
_QUERY, _KEY, _VALUE = (f"self_attn.{part}_proj.weight" for part in "qkv")
_TEXT_LAYER = (
    _rule("attn/attn_vec_einsum/w", "AHD", "DAH", "self_attn.o_proj.weight"),
    _rule("mlp/gating_einsum", "2DF", "FD", "mlp.gate_proj.weight", "mlp.up_proj.weight"),
    _rule("mlp/linear", "FD", "DF", "mlp.down_proj.weight"),
    _rule("pre_attention_norm/scale", "D", "D", "input_layernorm.weight"),
)
# Models with as many key-value heads as query heads store one array instead of two.
_JOINT_ATTENTION = (_rule("attn/qkv_einsum/w", "3ADH", "AHD", _QUERY, _KEY, _VALUE),)
_GROUPED_ATTENTION = (
    _rule("attn/q_einsum/w", "ADH", "AHD", _QUERY),
    _rule("attn/kv_einsum/w", "2KDH", "KHD", _KEY, _VALUE),
)
# `post_attention_layernorm` is the norm before the MLP in Gemma, and the norm after attention in Gemma 2.
_GEMMA_NORMS = (_rule("pre_ffw_norm/scale", "D", "D", "post_attention_layernorm.weight"),)
_GEMMA2_NORMS = (
    _rule("pre_ffw_norm/scale", "D", "D", "pre_feedforward_layernorm.weight"),
    _rule("post_attention_norm/scale", "D", "D", "post_attention_layernorm.weight"),
    _rule("post_ffw_norm/scale", "D", "D", "post_feedforward_layernorm.weight"),
)
_POST_NORM = re.compile(r"llm/layers/.*post_(attention|ffw)_norm/scale")
_JOINT = re.compile(r"llm/layers/.*attn/qkv_einsum/w")


@dataclass(frozen=True)
class _Tower:
    """Names of the layers of a tower."""

    letter: str  # axis of stacked layers
    stacked: str  # first part of the keys of stacked layers
    numbered: str  # first part of the keys of one layer
    number: re.Pattern[str]  # matches the keys of one layer
    module: str  # canonical name of the list of layers


_VISION = _Tower(
    "l",
    "img/Transformer/encoderblock",
    "img/Transformer/encoderblock_{}",
    re.compile(r"img/Transformer/encoderblock_(0|[1-9]\d{0,3})/.*"),
    "vision_tower.encoder.layers",
)
_TEXT = _Tower(
    "L",
    "llm/layers",
    "llm/layers/{}",
    re.compile(r"llm/layers/(0|[1-9]\d{0,3})/.*"),
    "language_model.layers",
)


def is_gemma2(keys: Collection[str]) -> bool:
    """Return whether the decoder is Gemma 2, which has norms after attention and MLP."""
    return any(map(_POST_NORM.fullmatch, keys))


def rules_for(keys: Collection[str]) -> tuple[list[Rule], dict[str, int]]:
    """Return a rule for each array that the checkpoint must have, given the keys that it has.

    Returns:
        The rules, and the number of layers by axis letter for each tower whose layers are not stacked.
    """
    attention = _JOINT_ATTENTION if any(map(_JOINT.fullmatch, keys)) else _GROUPED_ATTENTION
    norms = _GEMMA2_NORMS if is_gemma2(keys) else _GEMMA_NORMS
    rules, layers = list(_OUTSIDE_LAYERS), dict[str, int]()
    for tower, layer_rules in ((_VISION, _VISION_LAYER), (_TEXT, (*attention, *_TEXT_LAYER, *norms))):
        numbers = [int(match[1]) for match in map(tower.number.fullmatch, keys) if match]
        if numbers:
            layers[tower.letter] = min(max(numbers) + 1, MAX_LAYERS)
        rules += _expand(tower, layer_rules, layers.get(tower.letter))
    return rules, layers


def _expand(tower: _Tower, rules: tuple[Rule, ...], layers: int | None) -> Iterator[Rule]:
    """Yield the rules of a tower with complete keys and names; `layers` is None if layers are stacked."""
    for rule in rules:
        names = tuple(f"{tower.module}.{{}}.{name}" for name in rule.names)
        if layers is None:
            axes = tower.letter + rule.axes
            yield replace(rule, key=f"{tower.stacked}/{rule.key}", axes=axes, names=names)
        for layer in range(layers or 0):
            key = f"{tower.numbered.format(layer)}/{rule.key}"
            yield replace(rule, key=key, names=tuple(name.format(layer) for name in names))

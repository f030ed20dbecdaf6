"""Reading of the decoder's section of config.json: Gemma or Gemma 2."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..config import TextConfig
from .config_keys import GEMMA2_KEYS, GEMMA_KEYS, MAX_DIMENSION, MAX_LAYERS, MAX_REAL, TEXT_ACCEPTED
from .errors import quote_value
from .json_file import Section

ROPE_THETA = 10_000.0  # default of GemmaConfig and Gemma2Config; arXiv 2104.09864, section 3.2.2

# Defaults of transformers' GemmaConfig and Gemma2Config. Those of Gemma2Config are from transformers 4.47 and
# later: release 4.47 introduced PaliGemma 2, and earlier releases had other defaults.
_DEFAULT_SIZES = {
    "vocab_size": {"gemma": 256_000, "gemma2": 256_000},
    "hidden_size": {"gemma": 3072, "gemma2": 2304},
    "intermediate_size": {"gemma": 24_576, "gemma2": 9216},
    "num_hidden_layers": {"gemma": 28, "gemma2": 26},
    "num_attention_heads": {"gemma": 16, "gemma2": 8},
    "num_key_value_heads": {"gemma": 16, "gemma2": 4},
    "head_dim": {"gemma": 256, "gemma2": 256},
    "max_position_embeddings": {"gemma": 8192, "gemma2": 8192},
}


def read_text_config(section: Section) -> TextConfig:
    """Return the decoder's sizes from the object under `text_config`.

    Raises:
        CheckpointError: the section describes another decoder, has a size out of bounds, or has a setting
            that is not implemented.
    """
    model_type = section.values.get("model_type", "gemma")  # transformers has the same default
    section.check_values(TEXT_ACCEPTED)
    if model_type == "gemma":
        section.refuse_unknown(GEMMA_KEYS, accept_off=True)
        return _read_gemma(section, "gemma")
    if model_type == "gemma2":
        section.refuse_unknown(GEMMA2_KEYS, accept_off=True)
        return _read_gemma2(section)
    raise section.error(
        "model_type", f"is {quote_value(model_type)}; only 'gemma' and 'gemma2' are implemented"
    )


def _read_gemma(section: Section, model_type: Literal["gemma", "gemma2"]) -> TextConfig:
    sizes = {
        key: section.get_integer(
            key, defaults[model_type], 1, MAX_LAYERS if key == "num_hidden_layers" else MAX_DIMENSION
        )
        for key, defaults in _DEFAULT_SIZES.items()
    }
    heads, kv_heads, head_dim = (
        sizes[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if heads % kv_heads:
        problem = f"is {heads}, not a multiple of num_key_value_heads {kv_heads}"
        raise section.error("num_attention_heads", problem)
    if head_dim % 2:
        problem = f"is {head_dim}; rotary embedding rotates pairs of numbers, so it must be even"
        raise section.error("head_dim", problem)
    return TextConfig(
        model_type=model_type,
        # Gemma divides attention scores by sqrt(head_dim) and has no key for another divisor.
        query_pre_attn_scalar=float(head_dim),
        rms_norm_eps=section.get_positive("rms_norm_eps", 1e-6, 1.0),
        rope_theta=_read_rope_theta(section),
        tied_head=True,  # the top level of config.json or an adapter may change that
        **sizes,
    )


def _read_gemma2(section: Section) -> TextConfig:
    config = replace(
        _read_gemma(section, "gemma2"),
        query_pre_attn_scalar=section.get_positive("query_pre_attn_scalar", 256.0, MAX_REAL),
        attn_logit_softcapping=section.get_positive_or_null("attn_logit_softcapping", 50.0, MAX_REAL),
        final_logit_softcapping=section.get_positive_or_null("final_logit_softcapping", 30.0, MAX_REAL),
        sliding_window=_read_sliding_window(section),
    )
    # The model derives the kind of each layer. Newer files also list the kinds; the list must agree.
    layers = range(config.num_hidden_layers)
    derived = ["full_attention" if config.window(layer) is None else "sliding_attention" for layer in layers]
    stored = section.values.get("layer_types")
    if stored is not None and stored != derived:
        order = f"only the order {', '.join(derived[:2])}, ... is implemented"
        raise section.error("layer_types", f"is {quote_value(stored)}; {order}")
    return config


def _read_rope_theta(section: Section) -> float:
    """Return the rotary base, a key of the section or, since transformers 5, of its `rope_parameters`."""
    places = [section]
    for key in ("rope_parameters", "rope_scaling"):
        if section.values.get(key) is not None:
            rope = section.get_section(key)
            rope.check_values({"rope_type": ("default",), "type": ("default",)})
            rope.check_values({"partial_rotary_factor": (1.0, 1, None)})
            rope.refuse_unknown(
                {"rope_type", "type", "rope_theta", "partial_rotary_factor"}, accept_off=False
            )
            places.append(rope)
    stated = [place for place in places if "rope_theta" in place.values]
    bases = {place.get_positive("rope_theta", ROPE_THETA, MAX_REAL) for place in stated}
    if len(bases) > 1:
        raise section.error("rope_theta", "is given twice with different values; keep one")
    return bases.pop() if bases else ROPE_THETA


def _read_sliding_window(section: Section) -> int | None:
    """Return the number of tokens that an even layer sees, or None if the value is null."""
    if section.values.get("sliding_window", 0) is None:
        return None
    window = section.get_integer("sliding_window", 4096, 1, MAX_DIMENSION)
    section.check_values({"sliding_window_size": (window, None)})  # an older name of the same setting
    return window

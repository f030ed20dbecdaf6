"""Reads the decoder's section of config.json: Gemma or Gemma 2.

The defaults are those of transformers' GemmaConfig and Gemma2Config (the latter's of 4.47 and later, the
release PaliGemma 2 came with; older ones had other sizes).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TextConfig
from .config_keys import GEMMA2_KEYS, GEMMA_KEYS, MAX_DIMENSION, MAX_LAYERS, MAX_REAL, TEXT_ACCEPTED
from .errors import quote_value
from .json_section import Section

ROPE_THETA = 10_000.0  # arXiv 2104.09864, section 3.2.2; both classes' default


@dataclass(frozen=True)
class _Defaults:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 256
    vocab_size: int = 256_000


_GEMMA = _Defaults(3072, 24_576, 28, 16, 16)
_GEMMA2 = _Defaults(2304, 9216, 26, 8, 4)


def text_config(section: Section) -> TextConfig:
    """The decoder's sizes from the object under `text_config`.

    Raises:
        CheckpointError: another decoder, a size out of bounds, or a setting that is not implemented.
    """
    model_type = section.values.get("model_type", "gemma")  # absent means Gemma to transformers, too
    section.must_be(TEXT_ACCEPTED)
    if model_type == "gemma":
        section.refuse_unknown(GEMMA_KEYS)
        return _gemma(section)
    if model_type == "gemma2":
        section.refuse_unknown(GEMMA2_KEYS)
        return _gemma2(section)
    raise section.error(
        "model_type", f"is {quote_value(model_type)}; only 'gemma' and 'gemma2' are implemented"
    )


def _gemma(section: Section) -> TextConfig:
    sizes = _sizes(section, _GEMMA)
    return TextConfig(
        model_type="gemma",
        # Gemma divides by sqrt(head_dim) and has no key of its own for it.
        query_pre_attn_scalar=float(sizes["head_dim"]),
        rms_norm_eps=section.positive("rms_norm_eps", 1e-6, 1.0),
        rope_theta=_rope_theta(section),
        **sizes,
    )


def _gemma2(section: Section) -> TextConfig:
    config = TextConfig(
        model_type="gemma2",
        query_pre_attn_scalar=section.positive("query_pre_attn_scalar", 256.0, MAX_REAL),
        attn_logit_softcapping=section.positive_or_null("attn_logit_softcapping", 50.0, MAX_REAL),
        final_logit_softcapping=section.positive_or_null("final_logit_softcapping", 30.0, MAX_REAL),
        sliding_window=_sliding_window(section),
        rms_norm_eps=section.positive("rms_norm_eps", 1e-6, 1.0),
        rope_theta=_rope_theta(section),
        **_sizes(section, _GEMMA2),
    )
    # Newer files list each layer's kind, which the model derives: both must agree.
    layers = range(config.num_hidden_layers)
    derived = ["full_attention" if config.window(i) is None else "sliding_attention" for i in layers]
    stored = section.values.get("layer_types")
    if stored is not None and stored != derived:
        order = f"only layers by turns ({', '.join(derived[:2])}, ...) are implemented"
        raise section.error("layer_types", f"is {quote_value(stored)}; {order}")
    return config


def _sizes(section: Section, defaults: _Defaults) -> dict[str, int]:
    """The whole numbers of a TextConfig, by field name."""
    heads = section.integer("num_attention_heads", defaults.num_attention_heads, 1, MAX_DIMENSION)
    kv_heads = section.integer("num_key_value_heads", defaults.num_key_value_heads, 1, MAX_DIMENSION)
    head_dim = section.integer("head_dim", defaults.head_dim, 1, MAX_DIMENSION)
    if heads % kv_heads:
        problem = f"is {heads}, no multiple of num_key_value_heads {kv_heads}"
        raise section.error("num_attention_heads", problem)
    if head_dim % 2:
        raise section.error("head_dim", f"is {head_dim}; rotary embedding turns halves, so it must be even")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": section.integer("vocab_size", defaults.vocab_size, 1, MAX_DIMENSION),
        "hidden_size": section.integer("hidden_size", defaults.hidden_size, 1, MAX_DIMENSION),
        "intermediate_size": section.integer(
            "intermediate_size", defaults.intermediate_size, 1, MAX_DIMENSION
        ),
        "num_hidden_layers": section.integer("num_hidden_layers", defaults.num_hidden_layers, 1, MAX_LAYERS),
        "max_position_embeddings": section.integer("max_position_embeddings", 8192, 1, MAX_DIMENSION),
    }


def _rope_theta(section: Section) -> float:
    """The rotary base, from its old place or from inside `rope_parameters` (transformers 5)."""
    places = [section]
    for key in ("rope_parameters", "rope_scaling"):
        if section.values.get(key) is not None:
            rope = section.section(key)
            rope.must_be({"rope_type": ("default",), "type": ("default",)})
            rope.must_be({"partial_rotary_factor": (1.0, 1, None)})
            rope.refuse_unknown({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
            places.append(rope)
    bases = {p.positive("rope_theta", ROPE_THETA, MAX_REAL) for p in places if "rope_theta" in p.values}
    if len(bases) > 1:
        raise section.error("rope_theta", "is given twice with different values")
    return bases.pop() if bases else ROPE_THETA


def _sliding_window(section: Section) -> int | None:
    """Tokens an even layer sees, or None where the file says null; `sliding_window_size` is an old copy."""
    if section.values.get("sliding_window", 0) is None:
        return None
    window = section.integer("sliding_window", 4096, 1, MAX_DIMENSION)
    section.must_be({"sliding_window_size": (window, None)})
    return window

"""Arguments of `generate` and of a call of the model that the graphs do not support."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from paligemma_onnx.runtime.errors import OptionError

_CACHE = "the graphs have a KV cache that cannot be replaced or switched off"
_ASSISTED = "the graphs do not support assisted generation"
_BEAMS = "beam search would have to reorder the KV cache; use num_beams=1, greedy or with do_sample=True"
_INPUTS = "the graphs read input_ids and pixel_values only"
_PROBLEMS = {
    "assistant_model": _ASSISTED,
    "assistant_tokenizer": _ASSISTED,
    "assistant_early_exit": _ASSISTED,
    "prompt_lookup_num_tokens": _ASSISTED,
    "use_mtp": _ASSISTED,
    "num_beams": _BEAMS,
    "num_beam_groups": _BEAMS,
    "constraints": _BEAMS,
    "force_words_ids": _BEAMS,
    "penalty_alpha": "the graphs do not support contrastive search; use top_k and top_p",
    "dola_layers": "the graphs return the logits of the last layer only",
    "guidance_scale": "classifier-free guidance runs a second prompt, which the graphs do not support",
    "negative_prompt_ids": "classifier-free guidance runs a second prompt, which the graphs do not support",
    "negative_prompt_attention_mask": "classifier-free guidance is not supported",
    "token_healing": "the prompt ends with a newline, which is not healed",
    "custom_generate": "only transformers' own loop is supported; call it without custom_generate",
    "synced_gpus": "a model runs in one process",
    "past_key_values": _CACHE,
    "cache": _CACHE,
    "use_cache": _CACHE,
    "cache_implementation": _CACHE,
    "prefill_chunk_size": "the graphs run a prompt at once, because its attention is bidirectional",
    "inputs_embeds": _INPUTS,
    "position_ids": "positions follow from attention_mask",
    "output_attentions": "the graphs do not return attentions; use the PyTorch model",
    "output_hidden_states": "the graphs do not return hidden states; use the PyTorch model",
}
# Values that ask for nothing; every argument may also be None or False.
_HARMLESS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "num_beams": (1,),
        "num_beam_groups": (1,),
        "guidance_scale": (1, 1.0),
        "penalty_alpha": (0.0,),
        "use_cache": (True,),
        "cache_implementation": ("dynamic", "hybrid"),  # transformers' default caches
    }
)


def refuse_unsupported(arguments: Mapping[str, object]) -> None:
    """Raise OptionError if an argument asks for something that the graphs do not support."""
    for name, problem in _PROBLEMS.items():
        value = arguments.get(name)
        if value is None or (value is False and name != "use_cache"):
            continue
        if value not in _HARMLESS.get(name, ()):
            raise OptionError(f"{name}={_shown(value)} is not supported: {problem}")


def refuse_unknown(arguments: Mapping[str, object]) -> None:
    """Raise OptionError if a call of the model has another argument than those of its signature."""
    refuse_unsupported(arguments)
    for name, value in arguments.items():
        if name not in _PROBLEMS and value is not None and value is not False:
            raise OptionError(f"{name} is not an argument of this model")


def _shown(value: object) -> str:
    return str(value) if isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"

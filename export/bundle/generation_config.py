"""Read the defaults of `generate` from generation_config.json, and interpret them as transformers does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_value
from paligemma_onnx.model.checkpoint.json_file import read_json
from paligemma_onnx.runtime.bundle.schema import GenerationDefaults

GENERATION_CONFIG = "generation_config.json"
_MAX_FLOAT = sys.float_info.max  # an integer in a JSON file can be larger
MAX_JSON_BYTES = 1 << 20  # published files are smaller than 1 kB
# Default limit of generated tokens. Captions and answers are shorter; boxes of twenty objects are longer.
MAX_NEW_TOKENS = 256
# Defaults of generate in transformers 5.23 if the file sets `do_sample` but not these values.
SAMPLING_TEMPERATURE, SAMPLING_TOP_K = 1.0, 50

# Keys that do not change a greedy or sampled answer: ids that other files define, settings of caches,
# settings of the values that transformers' generate returns, and speculative decoding, whose answers are the
# same.
_WITHOUT_EFFECT = frozenset(
    {
        *("transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "disable_compile"),
        *("compile_config", "low_memory", "prefill_chunk_size", "continuous_batching_config"),
        *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions"),
        *("output_hidden_states", "num_assistant_tokens", "num_assistant_tokens_schedule", "is_assistant"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp"),
    }
)
# For some keys, the value that does not change an answer. Null, false, 0 and empty values never do.
_NEUTRAL: Mapping[str, float] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "length_penalty": 1,
    "typical_p": 1,
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "max_length": 20,  # transformers' default, which `max_new_tokens` replaces
}
_TAKEN = frozenset({"do_sample", "max_new_tokens", "temperature", "top_k", "top_p"})
_TAKEN_TOKENS = frozenset({"repetition_penalty", "suppress_tokens"})


@dataclass(frozen=True)
class GenerationConfig:
    """Content of generation_config.json that an export uses.

    Attributes:
        defaults: the defaults of the bundle.
        notes: one line for each part of the file that has no effect on the bundle.
    """

    defaults: GenerationDefaults
    notes: tuple[str, ...]


def read_generation_config(folder: Path, *, vocab_size: int, context_length: int) -> GenerationConfig:
    """Return the defaults that generation_config.json sets. The file may be absent.

    As in transformers, answers are greedy unless `do_sample` is true. If `do_sample` is true, the default of
    `temperature` is 1 and the default of `top_k` is 50. Otherwise `top_k` and `top_p` only have an effect
    when a user sets a temperature.

    Args:
        folder: folder of the checkpoint.
        vocab_size: rows of the embedding (V).
        context_length: number of tokens, including image tokens (X).

    Raises:
        CheckpointError: the file is damaged, or a value is of a wrong type or outside its range.
    """
    path = folder / GENERATION_CONFIG
    content = read_json(path, MAX_JSON_BYTES) if path.exists() else {}
    settings = {key: value for key, value in content.items() if value is not None}

    def number(key: str, default: float, is_valid: Callable[[float], bool], expected: str) -> float:
        value = settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_valid(value):
            raise CheckpointError(f"{path}: {key} is {quote_value(value)}, expected {expected}")
        return value

    def whole(key: str, default: int, least: int) -> int:
        expected = f"a whole number of at least {least}"
        return int(number(key, default, lambda value: value == int(value) and value >= least, expected))

    do_sample = settings.get("do_sample", False)
    if not isinstance(do_sample, bool):
        raise CheckpointError(f"{path}: do_sample is {quote_value(do_sample)}, expected true or false")
    temperature = number(
        "temperature", SAMPLING_TEMPERATURE, lambda value: 0 <= value <= _MAX_FLOAT, "a number of at least 0"
    )
    defaults = GenerationDefaults(
        max_new_tokens=min(whole("max_new_tokens", MAX_NEW_TOKENS, 1), context_length),
        temperature=float(temperature) if do_sample else 0.0,
        top_k=whole("top_k", SAMPLING_TOP_K if do_sample else 0, 0),
        top_p=float(number("top_p", 1.0, lambda value: 0 < value <= 1, "a number in (0, 1]")),
        repetition_penalty=float(
            number("repetition_penalty", 1.0, lambda value: 0 < value <= _MAX_FLOAT, "a number above 0")
        ),
        suppress_tokens=_suppressed(path, settings.get("suppress_tokens", []), vocab_size),
    )
    return GenerationConfig(defaults, tuple(_notes(path, settings, do_sample=do_sample)))


def _suppressed(path: Path, ids: object, vocab_size: int) -> tuple[int, ...]:
    """Return the ids of the list; ids outside the vocabulary have no effect, as in transformers."""
    if not isinstance(ids, list) or not all(
        isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids
    ):
        raise CheckpointError(f"{path}: suppress_tokens is {quote_value(ids)}, expected a list of token ids")
    return tuple(sorted({id_ for id_ in ids if 0 <= id_ < vocab_size}))


def _notes(path: Path, settings: Mapping[str, object], *, do_sample: bool) -> list[str]:
    notes = []
    if not do_sample and settings.get("temperature", SAMPLING_TEMPERATURE) not in (0, SAMPLING_TEMPERATURE):
        notes.append(
            f"{path}: temperature {quote_value(settings['temperature'])} is not used, because do_sample is "
            "not true: answers are greedy by default"
        )
    ignored = {
        key: value
        for key, value in sorted(settings.items())
        if key not in _WITHOUT_EFFECT | _TAKEN | _TAKEN_TOKENS
        and not key.startswith("_")
        and value not in (False, "", [], {}, _NEUTRAL.get(key, 0))
    }
    notes += [
        f"{path}: {quote_value(key)[1:-1]} {quote_value(value)} is not supported; the export ignores it"
        for key, value in ignored.items()
    ]
    return notes

"""Reading of PEFT's adapter_config.json, which gives the scale of each LoRA product.

An adapter that cannot be merged from its tensors alone is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .errors import CheckpointError, quote_value
from .json_file import Section, read_json

MAX_ADAPTER_CONFIG_BYTES = 1 << 20  # PEFT writes about 1 KiB, more if there is a pattern for each module
MAX_RANK = 1 << 20  # the largest width of a layer (config_keys.py)
MAX_ALPHA = 1e9  # far above any alpha in use; keeps the scale finite
MAX_PATTERN_CHARACTERS = 200

MERGE_WITH_PEFT = "merge it with PEFT (merge_and_unload), save the model and export that"
NOT_MERGEABLE = "an adapter of this kind cannot be merged into weights, so it cannot be exported"
# Kinds of PEFT that change inputs or choose among adapters, and settings with which its merge fails.
_PROMPTS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
_NOT_MERGEABLE_KINDS = (*_PROMPTS, "XLORA")
_NOT_MERGEABLE_SETTINGS = ("alora_invocation_tokens", "layer_replication", "arrow_config")

_SWITCH: tuple[object, ...] = (True, False, None)
_ACCEPTED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    "use_rslora": _SWITCH,
    "use_dora": _SWITCH,
    "lora_bias": _SWITCH,
    "fan_in_fan_out": _SWITCH,  # concerns Conv1D, which PaliGemma does not have; PEFT ignores it for Linear
    "ensure_weight_tying": _SWITCH,
    # The other initialisations (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) also change the base weights, so the
    # adapter does not fit the stored base model. PEFT can convert such an adapter to plain LoRA
    # (`save_pretrained` with `path_initial_model_for_weight_conversion`); it then writes one of these values.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}
# Known settings are either read below or have no effect on a trained adapter: the tensors show which modules
# are adapted, and the other known settings concern training and bookkeeping. All remaining settings of PEFT
# 0.11 to 0.21 (layer_replication, alora_invocation_tokens and more) must have one of the values of _OFF: a
# setting that is on would make the adapter differ from what lora.py computes.
_KNOWN = {
    *_ACCEPTED,
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("qalora_group_size", "runtime_config"),
}
_OFF: tuple[object, ...] = (None, False, [], {})

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class AdapterConfig:
    """Rank and scale of each adapted module (LoRA: arXiv 2106.09685)."""

    r: int
    lora_alpha: float
    use_rslora: bool  # rank-stabilised: divide by sqrt(r) instead of r (arXiv 2312.03732)
    rank_pattern: Mapping[re.Pattern[str], int]  # module path patterns; the first match counts, as in PEFT
    alpha_pattern: Mapping[re.Pattern[str], float]
    use_dora: bool
    saved_modules: tuple[str, ...]  # modules that the adapter file holds as a whole
    token_indices: Mapping[str, tuple[int, ...]]  # trained rows by embedding name; "": any embedding

    def token_ids(self, module: str) -> tuple[int, ...]:
        """Return the ids of the trained rows of an embedding. The adapter's module path names it."""
        named = (ids for name, ids in self.token_indices.items() if f".{module}".endswith(f".{name}"))
        return next(named, self.token_indices.get("", ()))

    def rank(self, module: str) -> int:
        """Return the rank of a module. The adapter's module path names it."""
        return next((r for path, r in self.rank_pattern.items() if path.match(module)), self.r)

    def scale(self, module: str) -> float:
        """Return the scale of B A: alpha / sqrt(r) if `use_rslora` is set, otherwise alpha / r."""
        rank = self.rank(module)
        alphas = (alpha for path, alpha in self.alpha_pattern.items() if path.match(module))
        alpha = next(alphas, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the ranks and scales in adapter_config.json of an adapter folder.

    Raises:
        CheckpointError: the file is missing, is not JSON, or describes an adapter that only PEFT can merge.
    """
    path = folder / "adapter_config.json"
    top = Section(path, "", read_json(path, MAX_ADAPTER_CONFIG_BYTES))
    if "peft_type" not in top.values:
        raise top.error("peft_type", "is missing; a LoRA adapter has 'LORA' there")
    try:
        top.check_values(_ACCEPTED | dict.fromkeys(top.values.keys() - _KNOWN, _OFF))
    except CheckpointError as error:
        mergeable = top.values["peft_type"] not in _NOT_MERGEABLE_KINDS and not any(
            top.values.get(key) for key in _NOT_MERGEABLE_SETTINGS
        )
        raise CheckpointError(f"{error}; {MERGE_WITH_PEFT if mergeable else NOT_MERGEABLE}") from None
    return AdapterConfig(
        r=top.get_integer("r", None, 1, MAX_RANK),
        lora_alpha=top.get_positive("lora_alpha", 8.0, MAX_ALPHA),  # PEFT's default
        use_rslora=top.values.get("use_rslora") is True,
        rank_pattern=_read_patterns(
            top, "rank_pattern", lambda ranks, key: ranks.get_integer(key, None, 1, MAX_RANK)
        ),
        alpha_pattern=_read_patterns(
            top, "alpha_pattern", lambda alphas, key: alphas.get_positive(key, 0.0, MAX_ALPHA)
        ),
        use_dora=top.values.get("use_dora") is True,
        saved_modules=_read_names(top, "modules_to_save"),
        token_indices=_read_token_indices(top),
    )


def _read_names(top: Section, key: str) -> tuple[str, ...]:
    names = top.values.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise top.error(key, f"is {quote_value(names)}; it must be a list of names")
    return tuple(names)


def _read_token_indices(top: Section) -> dict[str, tuple[int, ...]]:
    """Return the ids of trained rows by embedding name; one list without names has the name ""."""
    key = "trainable_token_indices"
    stated = top.values.get(key) or {}
    lists = {"": stated} if isinstance(stated, list) else stated
    if isinstance(lists, dict) and all(_is_list_of_ids(ids) for ids in lists.values()):
        return {name: tuple(ids) for name, ids in lists.items()}
    raise top.error(
        key, f"is {quote_value(stated)}; it must be a list of ids, or such a list for each module"
    )


def _is_list_of_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)


def _read_patterns(
    top: Section, key: str, read: Callable[[Section, str], Number]
) -> dict[re.Pattern[str], Number]:
    """Return the values of a key whose object maps patterns to values.

    Raise CheckpointError if matching a pattern may take unbounded time.
    """
    if top.values.get(key) is None:
        return {}
    section, patterns = top.get_section(key), {}
    for pattern in section.values:
        # Backtracking takes exponential time only if a repeated group contains a repeat, and polynomial
        # time of a high degree only if there are many repeats. Patterns written by hand have neither.
        repeats = len(re.findall(r"[*+?{]", pattern))
        if len(pattern) > MAX_PATTERN_CHARACTERS or repeats > 2 or re.search(r"\)[*+?{]", pattern):
            raise top.error(key, f"has the pattern {quote_value(pattern)}, which is too complex")
        try:
            re.compile(pattern)
            # PEFT compares the pattern with the whole module path, or with the part after any dot.
            path = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError):
            raise top.error(key, f"has {quote_value(pattern)}, which is not a regular expression") from None
        patterns[path] = read(section, pattern)
    return patterns

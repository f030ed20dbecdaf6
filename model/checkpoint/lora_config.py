"""Reads PEFT's adapter_config.json: the scale of each LoRA product; what is not plain LoRA is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .errors import quote_value
from .json_file import read_json
from .json_section import Section

ADAPTER_CONFIG = "adapter_config.json"
MAX_ADAPTER_CONFIG_BYTES = 1 << 20  # PEFT writes about 1 KiB, more with a pattern for each module
MAX_RANK = 1 << 20  # as wide as any layer may be
MAX_ALPHA = 1e9
MAX_PATTERN_CHARACTERS = 200

# Settings of PEFT 0.11 to 0.21 that make an adapter something else than W + B A, with the values that do not.
_ACCEPTED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "lora_bias": (False, None),
    "bias": ("none",),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "lora_ga_config": (None,),
    "corda_config": (None,),
    # The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base weights as well, so the
    # adapter does not belong to the base model as it is stored.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}
# Which modules were adapted shows in the tensors; the rest concerns training and bookkeeping.
_IGNORED = {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "qalora_group_size"),
    *("runtime_config", "ensure_weight_tying"),
}
_READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class AdapterConfig:
    """Rank and scale of each adapted module (LoRA: arXiv 2106.09685)."""

    r: int
    lora_alpha: float
    use_rslora: bool  # rank-stabilised: divide by sqrt(r) instead of r (arXiv 2312.03732)
    rank_pattern: Mapping[str, int]  # regular expression of module paths -> rank
    alpha_pattern: Mapping[str, float]  # regular expression of module paths -> alpha

    def rank(self, module: str) -> int:
        """Rank of a module by its path in the adapter's own layout."""
        return _first_match(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Factor of B A: alpha / r, or alpha / sqrt(r)."""
        rank = self.rank(module)
        alpha = _first_match(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read adapter_config.json.

    Raises:
        CheckpointError: not there, not JSON, or an adapter that is not plain LoRA.
    """
    path = folder / ADAPTER_CONFIG
    top = Section(str(path), "", read_json(path, MAX_ADAPTER_CONFIG_BYTES))
    if "peft_type" not in top.values:
        raise top.error("peft_type", "is missing; a LoRA adapter says 'LORA' there")
    top.must_be(_ACCEPTED)
    top.refuse_unknown(_ACCEPTED.keys() | _IGNORED | _READ)
    top.must_be({"use_rslora": (True, False, None)})
    ranks, alphas = _pattern(top, "rank_pattern"), _pattern(top, "alpha_pattern")
    return AdapterConfig(
        r=top.integer("r", None, 1, MAX_RANK),
        lora_alpha=top.positive("lora_alpha", 8.0, MAX_ALPHA),  # PEFT's default
        use_rslora=top.values.get("use_rslora") is True,
        rank_pattern={key: ranks.integer(key, None, 1, MAX_RANK) for key in ranks.values},
        alpha_pattern={key: alphas.positive(key, 0.0, MAX_ALPHA) for key in alphas.values},
    )


def _pattern(top: Section, key: str) -> Section:
    """A mapping whose keys are regular expressions that can be matched in bounded time."""
    if top.values.get(key) is None:
        return Section(top.file, f"{key}.", {})
    section = top.section(key)
    for pattern in section.values:
        # Backtracking takes exponential time only where a repeated group repeats inside, and polynomial time
        # of a high degree only with many repeats; patterns that people write have neither.
        repeats = len(re.findall(r"[*+?{]", pattern))
        if len(pattern) > MAX_PATTERN_CHARACTERS or repeats > 2 or re.search(r"\)[*+?{]", pattern):
            raise top.error(key, f"has the pattern {quote_value(pattern)}, which is too elaborate")
        try:
            re.compile(pattern)
            re.compile(_whole_or_end(pattern))
        except (re.error, OverflowError, RecursionError):
            raise top.error(key, f"has {quote_value(pattern)}, which is no regular expression") from None
    return section


def _first_match(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that matches, as PEFT picks it."""
    for pattern, value in patterns.items():
        if re.match(_whole_or_end(pattern), module):
            return value
    return default


def _whole_or_end(pattern: str) -> str:
    """PEFT's reading of a pattern: it stands for the whole module path, or for its end after a dot."""
    return rf"(.*\.)?({pattern})$"

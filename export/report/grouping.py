"""Group the differences of a comparison by graph, by layer and by step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from ..validation.measures import Difference

_CACHE_TENSOR = re.compile(r"(\d+)\.(key|value)")


def graph_of(stage: str) -> str:
    """Return the name of the graph that a stage ran; each decode step ran `decode`."""
    return "decode" if stage.startswith("step.") else stage


def step_of(stage: str) -> int:
    """Return the index of the answer's token that a stage predicts: 0 for prefill, 1 for step.0."""
    return int(stage.removeprefix("step.")) + 1 if stage.startswith("step.") else 0


def by_output(differences: Iterable[Difference]) -> dict[str, list[Difference]]:
    """Group differences by graph and kind of output: `vision`, `prefill logits`, `prefill key`, ..."""
    groups: dict[str, list[Difference]] = defaultdict(list)
    for difference in differences:
        graph, kind = graph_of(difference.stage), difference.name.rpartition(".")[2]
        groups[f"{graph} {kind}" if graph in ("prefill", "decode") else graph].append(difference)
    return dict(groups)


def by_layer(differences: Iterable[Difference]) -> Mapping[str, Mapping[str, Mapping[int, list[Difference]]]]:
    """Group the differences of the KV cache by graph, then by `key` or `value`, then by layer."""
    groups: dict[str, dict[str, dict[int, list[Difference]]]] = {}
    for difference in differences:
        if parts := _CACHE_TENSOR.fullmatch(difference.name):
            kinds = groups.setdefault(graph_of(difference.stage), {})
            layers = kinds.setdefault(parts[2], defaultdict(list))
            layers[int(parts[1])].append(difference)
    return groups

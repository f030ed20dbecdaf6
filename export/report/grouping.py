"""A comparison's many differences, put together as a reader asks for them: by graph, by layer, by step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..validation.measures import Difference

_CACHE = re.compile(r"(\d+)\.(key|value)")


def graph_of(stage: str) -> str:
    """The graph that a stage ran: steps are decode's."""
    return "decode" if stage.startswith("step.") else stage


def step_of(stage: str) -> int:
    """Which of the words that follow the prompt a stage decides: 0 for prefill."""
    return int(stage.removeprefix("step.")) + 1 if stage.startswith("step.") else 0


def by_output(differences: Iterable[Difference]) -> dict[str, list[Difference]]:
    """By graph and kind of output: `vision`, `prefill logits`, `prefill key`, ..."""
    groups: dict[str, list[Difference]] = defaultdict(list)
    for difference in differences:
        graph, kind = graph_of(difference.stage), difference.name.rpartition(".")[2]
        decoder = graph in ("prefill", "decode")
        groups[f"{graph} {kind}" if decoder else graph].append(difference)
    return dict(groups)


def by_layer(differences: Iterable[Difference]) -> Mapping[str, Mapping[str, Mapping[int, list[Difference]]]]:
    """Of the cache: by graph, then `key` and `value`, then layer."""
    groups: dict[str, dict[str, dict[int, list[Difference]]]] = {}
    for difference in differences:
        if named := _CACHE.fullmatch(difference.name):
            kinds = groups.setdefault(graph_of(difference.stage), {})
            layers = kinds.setdefault(named[2], defaultdict(list))
            layers[int(named[1])].append(difference)
    return groups


def largest(group: Sequence[Difference], *, exact: bool) -> Difference:
    """The one that says most of a group: by its worst number where words must agree, else by its size."""
    return max(group, key=lambda item: item.relative if exact else item.rms)

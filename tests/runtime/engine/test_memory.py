"""Vision and prefill return the memory of intermediate values to the system; decode steps keep theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paths import SCENE

from paligemma_onnx.runtime import PaliGemma

SHRINKAGE = "memory.enable_memory_arena_shrinkage"  # onnxruntime_run_options_config_keys.h


@dataclass
class RecordingSession:
    """A session that records whether each run shrinks the memory arena."""

    session: Any
    runs: list[bool] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        try:
            self.runs.append(options.get_run_config_entry(SHRINKAGE) == "cpu:0")
        except RuntimeError:  # no such entry
            self.runs.append(False)
        self.session.run_with_iobinding(binding, options)


def test_only_decode_steps_keep_their_memory(bundle: Callable[[str], Path]) -> None:
    model = PaliGemma.load(bundle("gemma_one_kv_head"), device="cpu")
    runner = model.runner
    vision, prefill, decode = map(
        RecordingSession, (runner.vision_session, runner.prefill_session, runner.decode_session)
    )
    model.runner = replace(runner, vision_session=vision, prefill_session=prefill, decode_session=decode)
    answer = model.generate(SCENE, "caption en", max_new_tokens=4)
    assert (vision.runs, prefill.runs) == ([True], [True])
    assert decode.runs == [False] * (len(answer.token_ids) - 1)
    assert decode.runs

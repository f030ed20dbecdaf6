"""The shipped model in one precision on one device: what it answers, and where it parts from others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from .prompts import picture_name, questions
from .teacher_forcing import differences

ROWS = 16  # of a batch
MOST_TOKENS = 160  # of an answer: five objects with masks take 5 * 23 and an end
SHOWN = 20  # differences that are listed


class Answers:
    """A loaded bundle and its questions; used in a process of its own."""

    def __init__(self, folder: str, device: str, scenes: int) -> None:
        self._model = opened(Path(folder), device)
        self._questions = questions(scenes)

    def answers(self) -> list[list[int]]:
        """Ids of the answers, without the stop id."""
        found = []
        for _, requests in self._batches():
            answers = self._model.generate_batch(requests, max_new_tokens=MOST_TOKENS)
            found += [list(answer.token_ids) for answer in answers]
        return found

    def agreement(self, answers: Sequence[Sequence[int]]) -> dict[str, Any]:
        """How many tokens of given answers this model chooses, too, each behind the given ones."""
        tokens, different, apart = 0, list[dict[str, Any]](), set[int]()
        for start, requests in self._batches():
            given = answers[start : start + ROWS]
            compared, found = differences(self._model, requests, given, MOST_TOKENS)
            tokens += compared
            for one in found:
                question = self._questions[start + one.row]
                asked = {"picture": picture_name(question), "prompt": question.prompt}
                different.append(asked | asdict(one))
                apart.add(start + one.row)
        return {
            "device": self._model.device,
            "load_s": self._model.load_s,
            "tokens": tokens,
            "agreed": tokens - len(different),
            "share": (tokens - len(different)) / tokens,
            "answers": len(self._questions),
            "whole_answers": len(self._questions) - len(apart),
            # Scores that half precision no longer tells apart, of which the lower id is taken.
            "ties": sum(one["gap"] == 0.0 for one in different),
            "largest_gap": max((one["gap"] for one in different), default=0.0),
            "differences": different[:SHOWN],
        }

    def _batches(self) -> Iterator[tuple[int, list[Request]]]:
        for start in range(0, len(self._questions), ROWS):
            asked = self._questions[start : start + ROWS]
            yield start, [Request(one.picture, one.prompt) for one in asked]


def opened(folder: Path, device: str) -> PaliGemma:
    """A bundle on a device; one that is made for GPUs only is computed on a CPU as an export's check does."""
    manifest = read_manifest(folder)
    if device != "cpu" or device in manifest.precision.devices:
        return PaliGemma.load(folder, device=device)
    from paligemma_onnx.export.validation.float32_emulation import open_float32_emulation  # noqa: PLC0415  needs onnx_ir, on a CPU only

    placement, graphs = choose_placement("cpu", None), manifest.graphs
    vision, prefill, decode = (
        open_float32_emulation(folder, graph, placement)
        for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode)
    )
    runner = OnnxModelRunner(None, manifest, placement, vision, prefill, decode, None)
    return PaliGemma(manifest, PromptTokenizer.load(folder / manifest.tokens.file), runner, 0.0)

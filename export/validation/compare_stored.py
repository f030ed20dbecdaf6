"""Decide whether rounded weights explain that quantised graphs differ from the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from paligemma_onnx.runtime.atomic_file import temporary_folder
from paligemma_onnx.runtime.engine.memory import trim_heap
from paligemma_onnx.runtime.graphs.model_runner import ModelRunner

from ..precisions import PRECISIONS
from ..source import Source
from .compare import compare
from .measures import ROUNDED_ACTIVATIONS, Comparison
from .reference_outputs import (
    ReferenceModel,
    ValidationInputs,
    load_and_run_reference,
    run_reference_masks,
)
from .stored_model import StoredReference, load_stored_model


@dataclass(frozen=True)
class QuantizedGraphs:
    """Graph files with all weights of the model, for a prefill and for a step."""

    prefill: Sequence[Path]
    step: Sequence[Path]

    def load(self, source: Source) -> tuple[str, ReferenceModel]:
        """Return the name and an instance of the torch model with the weights of the graphs."""
        prefilling = load_stored_model(source.config, self.prefill)
        same = self.step == self.prefill
        stepping = prefilling if same else load_stored_model(source.config, self.step)
        return f"torch {torch.__version__} with the stored weights", StoredReference(prefilling, stepping)


def explain_by_rounding(
    measured: tuple[str, Comparison],
    precision_name: str,
    graphs: QuantizedGraphs,
    open_runner: Callable[[], ModelRunner],
    *,
    source: Source,
    inputs: ValidationInputs,
    scratch: Path | None,
    progress: Callable[[str], object],
) -> tuple[str, Comparison]:
    """Return a comparison and the name of its reference, which is another one if rounding exceeds a limit.

    Rounding errors grow from layer to layer. In a deep model whose weights are random they exceed the limit
    of errors that separates rounded weights from wrong graphs, although the graphs are right. The graphs are
    then compared with torch on the weights that they store, with a lower limit. `compare_weights` has
    compared these weights with the checkpoint.

    Args:
        measured: name of the reference that computes with the checkpoint's weights, and the comparison.
        precision_name: a key of PRECISIONS.
        graphs: the graph files.
        open_runner: returns a runner that opens the graphs when they are needed.
        source: the checkpoint.
        inputs: the inputs of the comparison.
        scratch: parent of the folder for the outputs of the reference; None: the system's temporary folder.
        progress: called with a line of text before each stage.
    """
    if measured[1].passed or not PRECISIONS[precision_name].quantizes_activations:
        return measured
    progress("rounding exceeds a limit: comparing with the stored weights")
    trim_heap()  # the graphs have just been closed
    with temporary_folder(scratch) as folder:
        name, reference = load_and_run_reference(lambda: graphs.load(source), inputs, None, folder, progress)
        if source.mask_decoder is not None:
            run_reference_masks(source.mask_decoder, reference)
        return name, compare(open_runner(), inputs, reference, progress, ROUNDED_ACTIVATIONS)

"""Compare the folder of a layout with its checkpoint; `validate` and `export` use this module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime.atomic_file import temporary_folder
from paligemma_onnx.runtime.bundle.layout_record import LayoutRecord
from paligemma_onnx.runtime.engine.devices import Placement, choose_placement
from paligemma_onnx.runtime.errors import MismatchError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.draft_manifest import draft_manifest
from ..source import Source
from ..validation import self_check as checks
from ..validation.compare import compare
from ..validation.compare_stored import QuantizedGraphs, explain_by_rounding
from ..validation.compare_weights import compare_graph_weights
from ..validation.reference_outputs import ReferenceModel, ValidationInputs, load_and_run_reference
from ..validation.validate import Validation, describe_failure
from .layout import PRECISION_NAMES
from .layout_runner import open_layout


def check_layout(
    folder: Path, record: LayoutRecord, source: Source, progress: Callable[[str], object]
) -> None:
    """Compare a new layout with its checkpoint.

    Raises:
        MismatchError: the graphs do not compute what the checkpoint does.
    """
    manifest = draft_manifest(source, "fp32")
    tokenizer = PromptTokenizer.load(source.tokenizer)
    pixel_values = checks.synthetic_image(manifest.image.size)[None]
    inputs = checks.build_validation_inputs(manifest, tokenizer, pixel_values, checks.PROMPTS, checks.STEPS)
    validations = validate_layout(
        folder,
        record,
        source=source,
        load_reference=lambda: checks.torch_reference(source),
        inputs=inputs,
        placement=choose_placement("cpu", None),
        progress=progress,
        scratch=folder,
    )
    for dtype, validation in validations.items():
        if not validation.passed:
            raise MismatchError(
                f"{source.path}: the exported graphs ({dtype}) do not compute what torch computes: "
                f"{describe_failure(validation)}"
            )


def validate_layout(
    folder: Path,
    record: LayoutRecord,
    *,
    source: Source,
    load_reference: Callable[[], tuple[str, ReferenceModel]],
    inputs: ValidationInputs,
    placement: Placement,
    progress: Callable[[str], object],
    reference_pixels: NDArray[np.float32] | None = None,
    scratch: Path | None = None,
) -> dict[str, Validation]:
    """Compare the stored weights and the outputs of every dtype with the checkpoint; the key is the dtype.

    `validation.validate.validate` documents the arguments.
    """
    weights = {}
    for dtype in record.dtypes:
        progress(f"weights: comparing every stored number of {dtype} with the checkpoint")
        graphs = [folder / graph.file for graph in record.graphs[dtype].by_name.values()]
        stored = source.unpacked_weights(PRECISION_NAMES[dtype])
        weights[dtype] = compare_graph_weights(graphs, stored, source.constants)
    validations = {}
    with temporary_folder(scratch) as outputs:
        name, reference = load_and_run_reference(load_reference, inputs, reference_pixels, outputs, progress)
        for dtype in record.dtypes:
            open_runner = partial(open_layout, folder, record, source, dtype, placement)
            measured = name, compare(open_runner(), inputs, reference, progress)
            graphs = [folder / graph.file for graph in record.graphs[dtype].by_name.values()]
            used, comparison = explain_by_rounding(
                measured,
                PRECISION_NAMES[dtype],
                QuantizedGraphs(graphs, graphs),
                open_runner,
                source=source,
                inputs=inputs,
                scratch=scratch,
                progress=progress,
            )
            validations[dtype] = Validation(
                bundle_id=record.layout_id,
                precision=dtype,
                reference=used,
                device=placement.name,
                rows=len(inputs.prompts),
                steps=inputs.steps,
                weights=weights[dtype],
                comparison=comparison,
            )
    return validations

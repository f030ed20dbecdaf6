"""Lists of the operators and initializers in the graphs of a bundle, for the manifest and `tensors.json`."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from paligemma_onnx.runtime.bundle.dtypes import DTYPES
from paligemma_onnx.runtime.bundle.tensor_table import MatrixFacts, StoredTensor

from ..precisions import BlockQuantized, Int8PerChannel
from ..quantization.quantize_graph import QuantizedGraph, TensorRef

LAYERS = ".layers"  # part of the name of a layer, such as language_model.layers.0


def count_operators(graph: QuantizedGraph) -> dict[str, int]:
    """Return the number of nodes of each operator, in descending order of number.

    The name of an operator outside the domain of ONNX begins with the name of its domain.
    """
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in graph.model.graph.all_nodes()
    )
    return dict(operators.most_common())


def list_tensors(graph: QuantizedGraph) -> tuple[StoredTensor, ...]:
    """Return the initializers of a graph that are stored in weight files.

    Call `reference_weight_file` first, which sets the positions of the initializers.
    """
    tensors = []
    for name, value in graph.model.graph.initializers.items():
        if isinstance(external := value.const_value, ir.ExternalTensor):
            reference = graph.references[name]
            tensor = StoredTensor(
                name,
                reference.stored.layouts[reference.array].dtype,
                reference.shape,
                str(external.location),
                external.offset or 0,
                _matrix_facts(reference),
            )
            if tensor.length != external.length:
                raise RuntimeError(
                    f"{name}: has {external.length} bytes, its shape and dtype give {tensor.length}"
                )
            tensors.append(tensor)
    return tuple(tensors)


def _matrix_facts(reference: TensorRef) -> MatrixFacts | None:
    """Return the facts of a matrix; None for other tensors, and for a second view of the embedding."""
    stored, layout = reference.stored, reference.stored.layouts[reference.array]
    if len(reference.shape) < 2 or layout.is_scales or reference.shape != layout.shape:
        return None
    prefix, layers, suffix = stored.name.partition(f"{LAYERS}.")
    number = suffix.partition(".")[0]
    part, layer = (prefix + LAYERS, int(number)) if layers and number.isdigit() else (stored.name, None)
    match stored.format:
        case BlockQuantized(bits=bits):
            return MatrixFacts(part, layer, bits)
        case Int8PerChannel():
            return MatrixFacts(part, layer, 8)
    return MatrixFacts(part, layer, 8 * DTYPES[layout.dtype].bytes)

"""List operators and initializers of a bundle's graphs, for the manifest and `tensors.json`."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from paligemma_onnx.runtime.bundle.dtypes import DTYPES, DTypeName
from paligemma_onnx.runtime.bundle.tensor_table import MatrixFacts, StoredTensor

from ..precisions import BlockQuantized, Int8PerChannel
from ..quantization.quantize_graph import QuantizedGraph, TensorRef

DTYPE_NAMES: dict[int, DTypeName] = {dtype.onnx_type: name for name, dtype in DTYPES.items()}
LAYERS = ".layers"  # the modules in it are numbered: language_model.layers.0


def count_operators(graph: QuantizedGraph) -> dict[str, int]:
    """Return the number of nodes by operator, descending; the domain precedes operators outside ONNX."""
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in graph.model.graph.all_nodes()
    )
    return dict(operators.most_common())


def list_tensors(graph: QuantizedGraph) -> tuple[StoredTensor, ...]:
    """List the initializers that lie in weight files; `refer` has pointed them to their places."""
    tensors = []
    for name, value in graph.model.graph.initializers.items():
        if isinstance(place := value.const_value, ir.ExternalTensor):
            reference = graph.references[name]
            tensor = StoredTensor(
                name,
                DTYPE_NAMES[int(place.dtype)],
                reference.shape,
                str(place.location),
                place.offset or 0,
                _matrix_facts(reference),
            )
            if tensor.length != place.length:
                raise RuntimeError(
                    f"{name}: has {place.length} bytes, its shape and dtype give {tensor.length}"
                )
            tensors.append(tensor)
    return tuple(tensors)


def _matrix_facts(reference: TensorRef) -> MatrixFacts | None:
    stored, layout = reference.stored, reference.stored.layouts[reference.array]
    # The second shape of the embedding's codes repeats their bytes.
    if len(reference.shape) < 2 or layout.is_scales or reference.shape != layout.shape:
        return None
    module, layers, rest = stored.name.partition(f"{LAYERS}.")
    number = rest.partition(".")[0]
    part, layer = (module + LAYERS, int(number)) if layers and number.isdigit() else (stored.name, None)
    match stored.format:
        case BlockQuantized(bits=bits):
            return MatrixFacts(part, layer, bits)
        case Int8PerChannel():
            return MatrixFacts(part, layer, 8)
    return MatrixFacts(part, layer, 8 * int(layout.dtype.itemsize))

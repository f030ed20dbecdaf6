"""Does an open graph belong to its manifest: the same bundle, the same inputs and outputs?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ..errors import BundleError
from .onnx_reader import DTYPES, read_onnx
from .schema import BUNDLE_ID_KEY, GraphSpec, TensorSpec

# As onnxruntime names them.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(bfloat16)": "bfloat16",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
}


def check_interface(session: Any, path: Path, graph: GraphSpec, bundle_id: str) -> None:
    """Hold a session against what the manifest says of its graph.

    Raises:
        BundleError: it belongs to another bundle, or has other inputs or outputs.
    """
    inputs, outputs = (
        tuple(_spec(node.name, _DTYPES.get(node.type), tuple(node.shape)) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    found = session.get_modelmeta().custom_metadata_map.get(BUNDLE_ID_KEY)
    _check(path, graph, bundle_id, found, inputs, outputs)


def check_file(path: Path, graph: GraphSpec, bundle_id: str) -> None:
    """The same of a graph that cannot be opened here, since the device that it is for is not.

    Raises:
        BundleError: as `check_interface`; or the file is no graph.
    """
    read = read_onnx(path)
    inputs, outputs = (
        tuple(_spec(value.name, DTYPES.get(value.data_type), value.shape) for value in values)
        for values in (read.inputs, read.outputs)
    )
    _check(path, graph, bundle_id, read.metadata.get(BUNDLE_ID_KEY), inputs, outputs)


def _spec(name: str, dtype: str | None, shape: tuple[int | str, ...]) -> TensorSpec:
    return TensorSpec(name, cast("Any", dtype), shape)  # a dtype that no manifest has is found to differ


def _check(
    path: Path,
    graph: GraphSpec,
    bundle_id: str,
    found: str | None,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    if found != bundle_id:
        raise BundleError(
            f"{path}: belongs to bundle {found or 'none'}, the manifest is of bundle {bundle_id}; "
            "files of two exports are mixed, export again"
        )
    for kind, declared, actual in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        wanted = {spec.name: spec for spec in declared}
        present = {spec.name: spec for spec in actual}
        different = [
            name
            for name in (*wanted, *(name for name in present if name not in wanted))
            if not _agrees(wanted.get(name), present.get(name))
        ]
        if different:
            raise BundleError(
                f"{path}: {kind}s differ from the manifest: {', '.join(different[:10])}; export again"
            )


def _agrees(declared: TensorSpec | None, actual: TensorSpec | None) -> bool:
    """Same dtype, rank and fixed dimensions; the names of varying dimensions are free."""
    if declared is None or actual is None or declared.dtype != actual.dtype:
        return False
    if len(declared.shape) != len(actual.shape):
        return False
    return all(
        isinstance(wanted, str) or wanted == found
        for wanted, found in zip(declared.shape, actual.shape, strict=True)
    )

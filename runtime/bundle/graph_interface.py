"""Compare an open graph's bundle id, inputs and outputs with the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import BundleError
from .dtypes import DTYPES
from .schema import BUNDLE_ID_KEY, GraphSpec, TensorSpec

MAX_NAMES = 10  # names of tensors in one message


class NodeArg(Protocol):
    """`onnxruntime.NodeArg`: an input or output of an open graph."""

    name: str
    type: str  # such as "tensor(float)"
    shape: Sequence[int | str | None]  # a dimension that varies is a name or None


class ModelMetadata(Protocol):
    """`onnxruntime.ModelMetadata`: metadata of an open graph."""

    custom_metadata_map: Mapping[str, str]


class GraphInterface(Protocol):
    """The part of `onnxruntime.InferenceSession` that describes a graph."""

    def get_inputs(self) -> Sequence[NodeArg]:
        """Return the inputs in the order in which the graph declares them."""

    def get_outputs(self) -> Sequence[NodeArg]:
        """Return the outputs in the order in which the graph declares them."""

    def get_modelmeta(self) -> ModelMetadata:
        """Return the metadata."""


def check_interface(session: GraphInterface, path: Path, graph: GraphSpec, bundle_id: str) -> None:
    """Compare a session with the manifest's description of its graph.

    Raises:
        BundleError: the graph belongs to another bundle, or has other inputs or outputs.
    """
    actual_id = session.get_modelmeta().custom_metadata_map.get(BUNDLE_ID_KEY)
    if actual_id != bundle_id:
        raise BundleError(
            f"{path}: belongs to bundle {actual_id or 'none'}, the manifest is of bundle {bundle_id}; "
            "files of two exports are mixed, export again"
        )
    for kind, declared, nodes in (
        ("input", graph.inputs, session.get_inputs()),
        ("output", graph.outputs, session.get_outputs()),
    ):
        expected = {spec.name: spec for spec in declared}
        actual = {node.name: node for node in nodes}
        different = [
            name
            for name in (*expected, *(name for name in actual if name not in expected))
            if name not in expected or name not in actual or not _agrees(expected[name], actual[name])
        ]
        if different:
            raise BundleError(
                f"{path}: {kind}s differ from the manifest: {', '.join(different[:MAX_NAMES])}; export again"
            )


def _agrees(declared: TensorSpec, node: NodeArg) -> bool:
    """Return whether dtype, rank and fixed dimensions are equal. Names of varying dimensions may differ."""
    return (
        node.type == DTYPES[declared.dtype].ort_type
        and len(node.shape) == len(declared.shape)
        and all(
            isinstance(expected, str) or expected == actual
            for expected, actual in zip(declared.shape, node.shape, strict=True)
        )
    )

"""Compare an open graph with its manifest: the same bundle, inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BundleError
from .dtypes import DTYPES
from .schema import BUNDLE_ID_KEY, GraphSpec, TensorSpec


def check_interface(session: Any, path: Path, graph: GraphSpec, bundle_id: str) -> None:
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
                f"{path}: {kind}s differ from the manifest: {', '.join(different[:10])}; export again"
            )


def _agrees(declared: TensorSpec, node: Any) -> bool:
    """Return whether dtype, rank and fixed dimensions agree; names of varying dimensions may differ."""
    return (
        node.type == DTYPES[declared.dtype].ort_type
        and len(node.shape) == len(declared.shape)
        and all(
            isinstance(expected, str) or expected == actual
            for expected, actual in zip(declared.shape, node.shape, strict=True)
        )
    )

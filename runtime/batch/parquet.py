"""Parquet by way of pyarrow, which is imported only when a file of that kind is read or written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, BinaryIO

from ..errors import ProviderError


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        ProviderError: it is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProviderError(
            "Parquet needs pyarrow: run `pip install 'paligemma-onnx[cpu,parquet]'`"
        ) from error
    return pyarrow.parquet


def write_parquet(lines: Iterable[bytes], file: BinaryIO) -> None:
    """Rows, given as lines of JSON, as one file with the schema that every part has."""
    arrow = parquet()
    import pyarrow as pa  # noqa: PLC0415

    box = pa.struct([("label", pa.string()), *((edge, pa.float64()) for edge in ("x1", "y1", "x2", "y2"))])
    stages = [(stage, pa.float64()) for stage in ("open", "vision", "prefill", "decode")]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("path", pa.string()),
            ("prompt", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("text", pa.string()),
            ("boxes", pa.list_(box)),
            ("finish_reason", pa.string()),
            ("seed", pa.uint64()),
            ("error", pa.struct([("code", pa.string()), ("message", pa.string())])),
            ("warnings", pa.list_(pa.string())),
            ("timings", pa.struct([*stages, ("batch", pa.int32())])),
            ("bundle_id", pa.string()),
        ]
    )
    arrow.write_table(pa.Table.from_pylist([json.loads(line) for line in lines], schema=schema), file)

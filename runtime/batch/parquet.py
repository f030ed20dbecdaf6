"""Write Parquet files with pyarrow; pyarrow is imported only if a Parquet file is read or written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, BinaryIO

from ..errors import ProviderError


def import_parquet() -> Any:
    """Import and return the module `pyarrow.parquet`.

    Raises:
        ProviderError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProviderError(
            "Parquet needs pyarrow: run `pip install 'paligemma-onnx[cpu,parquet]'`"
        ) from error
    return pyarrow.parquet


def write_parquet(lines: Iterable[bytes], file: BinaryIO) -> None:
    """Write rows to a Parquet file. Each line is a row in JSON, and all parts have the same schema."""
    parquet = import_parquet()
    import pyarrow as pa  # noqa: PLC0415

    numbers = [(name, pa.float64()) for name in ("x1", "y1", "x2", "y2", "score")]
    box = pa.struct([("label", pa.string()), *numbers])
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
            ("tokens", pa.list_(pa.string())),
            ("logprobs", pa.list_(pa.float64())),
            ("finish_reason", pa.string()),
            ("suffix", pa.string()),
            ("exact_match", pa.bool_()),
            ("token_accuracy", pa.float64()),
            ("seed", pa.uint64()),
            ("error", pa.struct([("code", pa.string()), ("message", pa.string())])),
            ("warnings", pa.list_(pa.string())),
            ("timings", pa.struct([*stages, ("batch", pa.int32())])),
            ("bundle_id", pa.string()),
        ]
    )
    parquet.write_table(pa.Table.from_pylist([json.loads(line) for line in lines], schema=schema), file)

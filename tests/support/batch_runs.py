"""Inputs and outputs of batch runs in tests: generated images, rows of the output, and a model stub."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from command_line import CommandResult
from PIL import Image
from time_limits import HANG

from paligemma_onnx.runtime import Generation, NumericsError, PaliGemma, Picture, Request, Timings
from paligemma_onnx.runtime.batch.columns import Columns
from paligemma_onnx.runtime.batch.folder import write_listing
from paligemma_onnx.runtime.batch.items import Item
from paligemma_onnx.runtime.batch.rows import RowError
from paligemma_onnx.runtime.batch.sources import Source, count_items, read_items, source_kind
from paligemma_onnx.runtime.image.open import ImageInput

CASE = "gemma_one_kv_head"
Run = Callable[..., CommandResult]  # the fixture `run`: an input and options
PROMPT = "caption en"
IMAGES = 40  # in the folder of the fixture `images`
INPUTS = 23  # in the list of the fixture `job`
PART_ROWS = 16
SAMPLED = ("--temperature", "1", "--seed", "5")
TRUNCATED_BYTES = 60  # of a PNG: its header and the beginning of the pixel data


def write_images(folder: Path, count: int, *, broken: Sequence[int] = ()) -> Path:
    """Write noise images 0000.png, 0001.png, ... into a new folder; truncate those numbered in `broken`."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:04d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (12, 9 + number % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:TRUNCATED_BYTES])
    return folder


def rows_in(output: Path) -> list[dict[str, Any]]:
    """Return all rows of complete parts, in the order of the parts' names."""
    return [
        json.loads(line)
        for part in sorted(output.glob("part-*.jsonl"))
        for line in part.read_bytes().splitlines()
    ]


def rows_by_id(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return rows by id, without the timings, which differ between runs; each id must occur once."""
    by_id = {row["id"]: {key: cell for key, cell in row.items() if key != "timings"} for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def all_items(path: Path, prompt: str | None = PROMPT, columns: Columns | None = None) -> list[Item]:
    """Return the items of an input, after checking that they are counted and read again as they are."""
    source = Source(path, source_kind(path), prompt, path.parent / "listing", columns or Columns())
    if source.kind == "folder":
        write_listing(path, source.listing)
    items = list(read_items(source))
    assert list(read_items(source)) == items
    assert count_items(source) == len(items)
    return items


def message(item: Item) -> str:
    """Return the error of an item that cannot be used."""
    assert isinstance(item.image, RowError)
    assert item.image.code == "input"
    return item.image.message


def batch_command(bundle: Path, source: Path, *options: str) -> tuple[str, ...]:
    """Return the arguments of a `batch` command without --output."""
    return (
        *("batch", "--model", str(bundle), "--input", str(source), "--prompt", PROMPT, "--device", "cpu"),
        *("--threads", "1", "--max-new-tokens", "5", *options),
    )


def set_part_rows(rows: int) -> str:
    """Return code that makes a `batch` command write parts of this many rows."""
    return f"import paligemma_onnx.runtime.cli.batch as command\ncommand.PART_ROWS = {rows}\n"


def texts_by_id(output: Path) -> dict[str, str]:
    """Return the answer to each image, by its row's id."""
    return {row_id: row["text"] for row_id, row in rows_by_id(rows_in(output)).items()}


def as_table(listed: Path, kind: str) -> Path:
    """Return a copy of a list as a table."""
    path, rows = listed.with_suffix(f".{kind}"), [{"image": line} for line in listed.read_text().split()]
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif kind == "csv":
        path.write_text("image\n" + listed.read_text())
    elif kind == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=8)
    return path


def wait_for(condition: Callable[[], object]) -> None:
    """Poll until a condition is true; fail after HANG."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class EchoModel:
    """A model stub that answers with the prompt; a prompt that contains `nan` makes its batch fail."""

    def __init__(self, model: PaliGemma) -> None:
        self.manifest, self.tokenizer, self.device = model.manifest, model.tokenizer, model.device
        self.batches: list[int] = []  # requests of each call

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:
        assert isinstance(image, bytes | Path)
        assert max_image_pixels
        size = self.manifest.image.size
        return Picture(np.zeros((3, size, size), np.float32), 8, 6)

    def generate_batch(self, requests: Sequence[Request], **_options: Any) -> list[Generation]:
        self.batches.append(len(requests))
        if any("nan" in request.prompt for request in requests):
            raise NumericsError("the graphs answered with NaN")
        encode = self.tokenizer.library.encode
        return [
            replace(_ANSWER, text=request.prompt, token_ids=tuple(encode(request.prompt).ids))
            for request in requests
        ]


_ANSWER = Generation("", (), "stop", 3, 4, 0, "cpu", Timings(0.0, 0.1, 0.2, 0.3, 0.4, 5.0), ())

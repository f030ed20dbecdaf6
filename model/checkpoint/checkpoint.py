"""A checkpoint folder as named tensors, mapped from disk and checked against the model beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .lora import Adapter
from .safetensors_header import StoredTensor, map_file
from .tensor_names import EMBEDDING, LM_HEAD, canonical_name
from .weight_files import WeightFile, find_weight_files

CHUNK = 1 << 22  # values looked at together: 16 MiB as float32, so that a table of gigabytes needs no more


@dataclass(frozen=True)
class _Place:
    """Where a tensor is: an open file and its name there."""

    file: Any  # a safe_open handle, which maps the file and is kept open
    stored_name: str
    stored: StoredTensor

    def tensor(self) -> Tensor:
        tensor: Tensor = self.file.get_tensor(self.stored_name)
        return tensor


@dataclass(frozen=True)
class Checkpoint:
    """The model's tensors by canonical name (tensor_names.py), an adapter merged in where there is one."""

    folder: Path
    adapter: Adapter | None
    _places: Mapping[str, _Place]

    @classmethod
    def open(
        cls,
        folder: Path,
        expected: Mapping[str, tuple[int, ...]],
        adapter: Path | None = None,
        *,
        trained_rows: int | None = None,
    ) -> Checkpoint:
        """Open a folder in Hugging Face layout; only headers are read, unless an output head is stored.

        Args:
            folder: holds model.safetensors, or model.safetensors.index.json and its shards.
            expected: shape of each of the model's parameters by canonical name.
            adapter: a PEFT LoRA folder to merge, or None.
            trained_rows: rows of the embedding table that stand for words; behind them a stored output head
                may differ, as the random rows of a checkpoint whose head was saved apart do. None: all rows.

        Raises:
            CheckpointError: files missing or damaged, a tensor missing, unexpected or of another shape, an
                output head that is not the embedding, or an adapter that cannot be merged.
        """
        places = _places(find_weight_files(folder))
        head = places.pop(LM_HEAD, None)
        if head is not None:
            places.setdefault(EMBEDDING, head)  # tied tensors are stored once, by some under this name
        _check_names_and_shapes(folder, places, expected)
        if head is not None and places[EMBEDDING] is not head:
            _check_tied(folder, head, places[EMBEDDING], trained_rows)
        merged = None if adapter is None else Adapter.open(adapter, expected)
        return cls(folder, merged, places)

    @property
    def names(self) -> Iterable[str]:
        """Canonical names of all tensors."""
        return self._places.keys()

    def tensor(self, name: str) -> Tensor:
        """A tensor by canonical name; KeyError for a name that `expected` did not have.

        Untouched by the adapter it is a private mapping of the file in its stored type: reading brings pages
        in, which the system may drop again, and costs no other memory. What an adapter changes is computed in
        float32 at every call.
        """
        tensor = self._places[name].tensor()
        return tensor if self.adapter is None else self.adapter.merge(name, tensor)

    def dtype(self, name: str) -> torch.dtype:
        """The type `tensor` gives: as stored, or float32 where the adapter is merged in."""
        if self.adapter is not None and name in self.adapter.names:
            return torch.float32
        return self._places[name].stored.dtype


def find_non_finite(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity, reading one after the other in bounded memory."""
    return [name for name in sorted(checkpoint.names) if not _is_finite(checkpoint.tensor(name))]


def _is_finite(tensor: Tensor) -> bool:
    # The extremes of a chunk are NaN if one of its values is, and need no second array of its size.
    extremes = (torch.stack(chunk.aminmax()) for chunk in tensor.flatten().split(CHUNK))
    return all(bool(pair.isfinite().all()) for pair in extremes)


def _places(files: list[WeightFile]) -> dict[str, _Place]:
    """Every stored tensor by canonical name."""
    places: dict[str, _Place] = {}
    for file in files:
        handle = map_file(file.path)
        for stored_name, stored in file.tensors.items():
            name = canonical_name(stored_name)
            if name in places:
                both = quote_names([stored_name, places[name].stored_name])
                raise CheckpointError(f"{file.path}: two names for one tensor: {both}")
            places[name] = _Place(handle, stored_name, stored)
    return places


def _check_names_and_shapes(
    folder: Path, places: Mapping[str, _Place], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = expected.keys() - places.keys()
    unexpected = [places[name].stored_name for name in places.keys() - expected.keys()]
    misshapen = [
        f"{places[name].stored_name} {list(places[name].stored.shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in places and places[name].stored.shape != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    problems = [f"{kind} ({len(names)}): {quote_names(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit the configuration; {'; '.join(problems)}")


def _check_tied(folder: Path, head: _Place, table: _Place, rows: int | None) -> None:
    """A stored output head must be the embedding table, value by value: the model has no other."""
    if head.stored.shape != table.stored.shape:
        shapes = f"{quote_value(head.stored.shape)}, not {quote_value(table.stored.shape)} as the embedding"
        raise CheckpointError(f"{folder}: {head.stored_name} has the shape {shapes}")
    words, own = (place.tensor()[:rows].flatten().split(CHUNK) for place in (head, table))
    chunks = zip(words, own, strict=True)
    # NaN equals NaN here: values that are not numbers are find_non_finite's to report.
    if not all(torch.allclose(a.float(), b.float(), rtol=0, atol=0, equal_nan=True) for a, b in chunks):
        raise CheckpointError(
            f"{folder}: {head.stored_name} differs from the embedding; only a tied output head is implemented"
        )

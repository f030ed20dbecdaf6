"""The named tensors of a checkpoint folder: memory-mapped, their names and shapes checked on opening."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .lora import Adapter
from .safetensors_file import SafetensorsFile, StoredTensor
from .tensor_names import EMBEDDING, LM_HEAD, canonical_name
from .weight_files import open_weight_files

# Values that are compared or checked at once: 16 MiB in float32, however many gigabytes a tensor has.
CHUNK = 1 << 22


@dataclass(frozen=True)
class _Entry:
    """A tensor of an open file."""

    file: SafetensorsFile
    stored_name: str

    @property
    def stored(self) -> StoredTensor:
        return self.file.tensors[self.stored_name]

    def tensor(self) -> Tensor:
        return self.file.tensor(self.stored_name)


@dataclass(frozen=True)
class Checkpoint:
    """The model's tensors by canonical name (tensor_names.py), merged with a LoRA adapter if there is one."""

    folder: Path
    adapter: Adapter | None
    _entries: Mapping[str, _Entry]

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
            trained_rows: number of leading rows of the embedding that stand for tokens. A stored output head
                may differ from the embedding in later rows, which hold random values if the checkpoint saved
                its head separately. None: all rows.

        Raises:
            CheckpointError: a file is missing or damaged; a tensor is missing, unexpected or of another
                shape; the output head differs from the embedding; or the adapter cannot be merged.
        """
        entries = _read_entries(open_weight_files(folder))
        head = entries.pop(LM_HEAD, None)
        if head is not None:
            entries.setdefault(EMBEDDING, head)  # some writers store the tied tensor only under this name
        _check_names_and_shapes(folder, entries, expected)
        if head is not None and entries[EMBEDDING] is not head:
            _check_tied(folder, head, entries[EMBEDDING], trained_rows)
        opened = None if adapter is None else Adapter.open(adapter, expected)
        return cls(folder, opened, entries)

    @property
    def names(self) -> Iterable[str]:
        """Canonical names of all tensors."""
        return self._entries.keys()

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by canonical name.

        A tensor that the adapter does not change is a private mapping of the file in its stored dtype.
        Reading it loads pages that the system may drop again, and takes no other memory. A tensor that the
        adapter changes is computed in float32 at every call.

        Raises:
            KeyError: `expected` did not have the name.
        """
        tensor = self._entries[name].tensor()
        return tensor if self.adapter is None else self.adapter.merge(name, tensor)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of `tensor(name)`: as stored, or float32 if the adapter changes the tensor."""
        if self.adapter is not None and name in self.adapter.names:
            return torch.float32
        return self._entries[name].stored.dtype


def find_non_finite(checkpoint: Checkpoint) -> list[str]:
    """Return the names of tensors with a NaN or an infinity, reading one tensor at a time."""
    return [name for name in sorted(checkpoint.names) if not _is_finite(checkpoint.tensor(name))]


def _is_finite(tensor: Tensor) -> bool:
    # Minimum and maximum of a chunk are NaN if one of its values is, and need no second array of its size.
    extremes = (torch.stack(chunk.aminmax()) for chunk in tensor.flatten().split(CHUNK))
    return all(bool(pair.isfinite().all()) for pair in extremes)


def _read_entries(files: list[SafetensorsFile]) -> dict[str, _Entry]:
    """Return every stored tensor by canonical name."""
    entries: dict[str, _Entry] = {}
    for file in files:
        for stored_name in file.tensors:
            name = canonical_name(stored_name)
            if name in entries:
                both = quote_names([stored_name, entries[name].stored_name])
                raise CheckpointError(f"{file.path}: two names for one tensor: {both}")
            entries[name] = _Entry(file, stored_name)
    return entries


def _check_names_and_shapes(
    folder: Path, entries: Mapping[str, _Entry], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = expected.keys() - entries.keys()
    unexpected = [entries[name].stored_name for name in entries.keys() - expected.keys()]
    misshapen = [
        f"{entries[name].stored_name} {list(entries[name].stored.shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in entries and entries[name].stored.shape != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    problems = [f"{kind} ({len(names)}): {quote_names(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit the configuration; {'; '.join(problems)}")


def _check_tied(folder: Path, head: _Entry, embedding: _Entry, rows: int | None) -> None:
    """Refuse an output head that differs from the embedding: the model has one matrix for both."""
    if head.stored.shape != embedding.stored.shape:
        shapes = f"{quote_value(head.stored.shape)}, the embedding {quote_value(embedding.stored.shape)}"
        raise CheckpointError(f"{folder}: {head.stored_name} has the shape {shapes}")
    chunks = zip(*(entry.tensor()[:rows].flatten().split(CHUNK) for entry in (head, embedding)), strict=True)
    # NaN equals NaN here: find_non_finite reports values that are not numbers.
    if not all(torch.allclose(a.float(), b.float(), rtol=0, atol=0, equal_nan=True) for a, b in chunks):
        raise CheckpointError(
            f"{folder}: {head.stored_name} differs from the embedding; only a tied output head is implemented"
        )

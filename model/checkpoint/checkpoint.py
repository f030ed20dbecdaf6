"""The named tensors of a checkpoint folder, memory-mapped. Opening the folder checks names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .adapter import Adapter, WeightedAdapter
from .errors import CheckpointError, quote_names, quote_value
from .lora_config import MERGE_WITH_PEFT
from .nf4 import round_to_nf4
from .safetensors_file import StoredTensor, refuse_other_dtypes
from .tensor_names import EMBEDDING, LM_HEAD, canonical_name, is_linear, is_unused
from .weight_files import open_weight_files

# Number of values that are compared or checked at once. They take 16 MiB in float32; a tensor may have
# gigabytes.
CHUNK = 1 << 22
# Prefixes of names that wrappers of a model add, and how to save the model itself.
WRAPPERS = {
    "module.": "save the model inside DistributedDataParallel or DeepSpeed: model.module.save_pretrained",
    "_orig_mod.": "save the model that was given to torch.compile: model._orig_mod.save_pretrained",
    "base_model.model.": "save the merged model of PEFT: model.merge_and_unload().save_pretrained",
}


@dataclass(frozen=True)
class Checkpoint:
    """The model's tensors by canonical name (tensor_names.py), merged with adapters."""

    adapter: Adapter
    _tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = ()  # lines for the user about content of the files that the model does not use
    nf4: Literal["nf4", "nf4-double"] | None = None  # rounding of linear layers before the merge

    @classmethod
    def open(
        cls,
        folder: Path,
        expected: Mapping[str, tuple[int, ...]],
        adapters: Sequence[WeightedAdapter] = (),
        *,
        trained_rows: int | None = None,
    ) -> Checkpoint:
        """Open a folder in Hugging Face layout.

        Only headers are read. If the folder stores an output head, the output head and the embedding are read
        as well, and compared.

        Args:
            folder: holds model.safetensors, or model.safetensors.index.json and its shards.
            expected: shape of each of the model's parameters by canonical name.
            adapters: folders of PEFT adapters to merge, with their weights.
            trained_rows: number of leading rows of the embedding that stand for tokens. In the later rows a
                stored output head may differ from the embedding, because a checkpoint that saves its output
                head separately has random values there. None: all rows stand for tokens.

        Raises:
            CheckpointError: a file is missing or damaged; a tensor is missing, unexpected or of another
                shape; the output head differs from the embedding; or the adapter cannot be merged.
        """
        return cls.from_tensors(
            folder, open_weight_files(folder), expected, adapters, trained_rows=trained_rows
        )

    @classmethod
    def from_tensors(
        cls,
        path: Path,
        stored: Iterable[StoredTensor],
        expected: Mapping[str, tuple[int, ...]],
        adapters: Sequence[WeightedAdapter] = (),
        *,
        trained_rows: int | None,
    ) -> Checkpoint:
        """Return a checkpoint of the given tensors. See `open` for `expected`, `adapters` and `trained_rows`.

        Raises:
            CheckpointError: for the same reasons as in `open`. The message begins with `path`.
        """
        tensors = _by_canonical_name(stored)
        refuse_other_dtypes(tensor for name, tensor in tensors.items() if not is_unused(name))
        head = tensors.get(LM_HEAD)
        if head is not None and LM_HEAD not in expected:
            tensors.setdefault(EMBEDDING, head)  # some files store the tied tensor only as the head
            del tensors[LM_HEAD]
        _check_names_and_shapes(path, tensors, expected)
        unused = [tensors.pop(name).name for name in tensors.keys() - expected.keys()]
        notes = [f"{path}: the model does not use {quote_names(unused)}"] if unused else []
        if head is not None and tensors[EMBEDDING] is not head:
            if LM_HEAD not in expected:
                _check_tied(path, head, tensors[EMBEDDING], trained_rows)
            elif _are_equal(head, tensors[EMBEDDING], rows=None):
                del tensors[LM_HEAD]
        adapter = Adapter.open(adapters, expected)
        if LM_HEAD in tensors and not adapter.changes.keys().isdisjoint((EMBEDDING, LM_HEAD)):
            raise CheckpointError(
                f"{path}: an adapter changes the embedding or the output head, which differ in this "
                f"checkpoint; {MERGE_WITH_PEFT}"
            )
        if LM_HEAD in adapter.changes:
            tensors[LM_HEAD] = tensors[EMBEDDING]
        return cls(adapter, tensors, tuple(notes))

    @property
    def has_tied_head(self) -> bool:
        """True if the output head is the embedding's matrix.

        The two differ if the checkpoint stores different matrices and its config.json has
        `"tie_word_embeddings": false`, or if an adapter changes only one of them.
        """
        return LM_HEAD not in self._tensors

    @property
    def names(self) -> Iterable[str]:
        """Canonical names of all tensors."""
        return self._tensors.keys()

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by canonical name.

        A tensor that the adapter does not change is a private mapping of the file, in the stored dtype.
        Reading the mapping loads pages of the file, which the system may drop again, and takes no other
        memory. A tensor that the adapter changes is computed in float32 at every call, and a tensor that is
        rounded is computed at every call.

        Raises:
            KeyError: the name is not one of the names that `open` expected.
        """
        tensor = self._tensors[name].load()
        if self._is_rounded(name):
            tensor = round_to_nf4(tensor, double=self.nf4 == "nf4-double")
        return self.adapter.merge(name, tensor)

    def is_mapped(self, name: str) -> bool:
        """Return whether `tensor` returns a mapping of the file; otherwise it returns a copy."""
        is_computed = name in self.adapter.changes or self._is_rounded(name)
        return self._tensors[name].is_mapped and not is_computed

    def _is_rounded(self, name: str) -> bool:
        return self.nf4 is not None and is_linear(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of `tensor(name)`: as stored, or float32 if adapters compute the tensor."""
        return self.adapter.dtype(name, self._tensors[name].dtype)


def find_non_finite(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> list[str]:
    """Return which of the named tensors contain a NaN or an infinity. One tensor is read at a time.

    Args:
        checkpoint: the checkpoint.
        names: canonical names; None: those of all tensors.
    """
    searched = checkpoint.names if names is None else names
    return [name for name in sorted(searched) if not _is_finite(checkpoint.tensor(name))]


def _is_finite(tensor: Tensor) -> bool:
    # If a chunk contains a NaN, its minimum and maximum are NaN. Unlike isfinite, minimum and maximum
    # need no second array of the size of the chunk.
    extremes = (torch.stack(chunk.aminmax()) for chunk in tensor.flatten().split(CHUNK))
    return all(bool(pair.isfinite().all()) for pair in extremes)


def _by_canonical_name(stored: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for tensor in stored:
        name = canonical_name(tensor.name)
        if name in tensors:
            both = quote_names([tensor.name, tensors[name].name])
            raise CheckpointError(f"{tensor.path}: two names for one tensor: {both}")
        tensors[name] = tensor
    return tensors


def _check_names_and_shapes(
    folder: Path, tensors: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = expected.keys() - tensors.keys()
    extra = tensors.keys() - expected.keys()
    misshapen = [
        f"{tensors[name].name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    # Unused tensors alone are accepted. If there are other problems, the message lists them as well.
    if not missing and not misshapen and all(is_unused(name) for name in extra):
        return
    if wrapper := next((each for each in WRAPPERS if _all_begin_with(tensors.values(), each)), None):
        raise CheckpointError(f"{folder}: all names of tensors begin with {wrapper!r}; {WRAPPERS[wrapper]}")
    unexpected = [tensors[name].name for name in extra]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    problems = [f"{kind} ({len(names)}): {quote_names(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit the configuration; {'; '.join(problems)}")


def _all_begin_with(tensors: Iterable[StoredTensor], prefix: str) -> bool:
    names = [tensor.name for tensor in tensors]
    return bool(names) and all(name.startswith(prefix) for name in names)


def _check_tied(folder: Path, head: StoredTensor, embedding: StoredTensor, rows: int | None) -> None:
    """Raise CheckpointError if the output head of a tied model differs from the embedding."""
    if head.shape != embedding.shape:
        shapes = f"{quote_value(head.shape)}, the embedding {quote_value(embedding.shape)}"
        raise CheckpointError(f"{folder}: {head.name} has the shape {shapes}")
    if not _are_equal(head, embedding, rows):
        raise CheckpointError(
            f"{folder}: {head.name} differs from the embedding, but config.json says that they are the same "
            'matrix; if they are not, set "tie_word_embeddings" to false there'
        )


def _are_equal(head: StoredTensor, embedding: StoredTensor, rows: int | None) -> bool:
    chunks = zip(*(tensor.load()[:rows].flatten().split(CHUNK) for tensor in (head, embedding)), strict=True)
    # Two NaNs count as equal here, because find_non_finite reports NaNs.
    return all(torch.allclose(a.float(), b.float(), rtol=0, atol=0, equal_nan=True) for a, b in chunks)

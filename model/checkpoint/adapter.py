"""Read PEFT LoRA adapters from folders, as changes of the base model's tensors (lora.py)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, dtype

from .errors import CheckpointError, quote_names, quote_value
from .lora import Change, Product, TokenRows, changes_both_alike
from .lora_config import MERGE_WITH_PEFT, NOT_MERGEABLE, AdapterConfig, read_adapter_config
from .safetensors_file import StoredTensor, open_safetensors, refuse_other_dtypes
from .tensor_names import EMBEDDING, LM_HEAD, canonical_name

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT wraps the model twice
MAGNITUDE, TOKENS = "lora_magnitude_vector", "token_adapter.trainable_tokens_delta"
LINEAR, EMBEDDED = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
# Names of the tensors of an adapted module. Every other tensor replaces a tensor of the base model.
_PART = re.compile(
    r"(.+)\.(lora_A\.weight|lora_B\.(?:weight|bias)|lora_embedding_[AB]|"
    rf"{MAGNITUDE}(?:\.weight)?|{re.escape(TOKENS)})"
)
# PEFT inserts these parts into the names of an adapted module's original tensors.
_WRAPPER = re.compile(r"(\.token_adapter)?\.base_layer(?=\.)")


@dataclass(frozen=True)
class WeightedAdapter:
    """The folder of an adapter and the weight with which the adapter is merged."""

    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """The changes that adapters make to tensors, by the canonical name of the tensor.

    The base model uses the embedding's matrix as its output head. There is an entry for the output head only
    if the adapters change the two differently; the adapted model then has two matrices.
    """

    changes: Mapping[str, Change]

    @classmethod
    def open(cls, adapters: Sequence[WeightedAdapter], expected: Mapping[str, tuple[int, ...]]) -> Adapter:
        """Return the sum of adapters, each from a folder that holds adapter_config.json and WEIGHTS.

        Args:
            adapters: folders written by `save_pretrained` of a PEFT model, and their weights. They are summed
                as in PEFT's `add_weighted_adapter(..., combination_type="cat")`.
            expected: shape of each parameter of the base model by canonical name.

        Raises:
            CheckpointError: a file is missing or damaged; a setting or a tensor is not understood; a change
                does not fit the name and shape of any base tensor; or an adapter that is not plain LoRA has a
                weight other than 1 or is added to another adapter.
        """
        shapes = dict(expected)
        if EMBEDDING in shapes:
            shapes[LM_HEAD] = shapes[EMBEDDING]
        changes: dict[str, Change] = {}
        for adapter in adapters:
            opened = _open_folder(adapter.folder, shapes)
            if len(adapters) == 1 and adapter.weight == 1:
                changes = opened
                continue
            if others := [name for name, change in opened.items() if not change.is_plain_lora]:
                raise CheckpointError(
                    f"{adapter.folder}: only plain LoRA can be scaled or added to another adapter, not the "
                    f"changes of {quote_names(others)}; {MERGE_WITH_PEFT}"
                )
            for name, change in opened.items():
                products = (replace(each, scale=each.scale * adapter.weight) for each in change.products)
                changes[name] = Change(products=(*changes.get(name, Change()).products, *products))
        return cls(_tie(changes))

    def merge(self, name: str, tensor: Tensor) -> Tensor:
        """Return the adapted tensor; without a change for `name`, return `tensor`."""
        change = self.changes.get(name)
        return tensor if change is None else change.apply(tensor)

    def dtype(self, name: str, stored: dtype) -> dtype:
        """Return the dtype of `merge(name, tensor)` for a tensor of dtype `stored`."""
        change = self.changes.get(name)
        return stored if change is None else change.dtype(stored)


def _open_folder(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Change]:
    """Return the changes of one adapter by canonical name. Raise CheckpointError if one does not fit."""
    config = read_adapter_config(folder)
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: adapter_model.bin is a pickle, and export reads safetensors only; load the adapter "
            "in PEFT and write it again with save_pretrained"
        )
    stored = open_safetensors(path)
    refuse_other_dtypes(stored.values())
    if not stored:
        raise CheckpointError(f"{path}: holds no tensors")
    if others := [name for name in stored if not name.startswith(PREFIX)]:
        raise CheckpointError(
            f"{path}: holds tensors whose names do not begin with {PREFIX}, so they are not tensors of a "
            f"PEFT adapter: {quote_names(others)}"
        )
    modules: dict[str, dict[str, StoredTensor]] = {}
    replacements: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        key = name.removeprefix(PREFIX)
        if part := _PART.fullmatch(key):
            modules.setdefault(part[1], {})[part[2]] = tensor
        else:
            replacements[key] = tensor
    if missing := [name for name in config.saved_modules if not _holds(replacements, name)]:
        raise CheckpointError(
            f"{path}: lacks the modules_to_save {quote_names(missing)}; save the adapter again"
        )
    changes = _read_replacements(path, replacements, expected)
    seen: dict[str, str] = {}
    for module, parts in sorted(modules.items()):
        for name, change in _read_module(path, config, module, parts, expected):
            if seen.setdefault(name, module) != module:
                raise CheckpointError(
                    f"{path}: two names for one layer; remove {quote_value(module)} or its copy"
                )
            replacement = changes[name].replacement if name in changes else None
            changes[name] = replace(change, replacement=replacement)
    return changes


def _holds(replacements: Mapping[str, StoredTensor], module: str) -> bool:
    return any(f".{module}." in f".{key}" for key in replacements)


def _read_replacements(
    path: Path, replacements: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Change]:
    """Return the tensors that replace a whole base tensor: modules_to_save, biases and saved embeddings."""
    changes: dict[str, Change] = {}
    wrapped = {key for key in replacements if _WRAPPER.search(key)}
    # An adapter file may have two tensors of one name: the matrix inside a wrapper, which embedding and head
    # share, and the copy of modules_to_save. The copy comes later and therefore wins.
    for key in sorted(replacements, key=lambda key: key not in wrapped):
        tensor, name = replacements[key], canonical_name(_WRAPPER.sub("", key))
        if name not in expected:
            raise CheckpointError(
                f"{path}: {quote_value(key)} is not a tensor of the model; {MERGE_WITH_PEFT}"
            )
        if tensor.shape != tuple(expected[name]):
            shapes = f"{list(tensor.shape)} instead of {list(expected[name])}"
            raise CheckpointError(f"{path}: {quote_value(key)} has the shape {shapes}; {MERGE_WITH_PEFT}")
        is_shared = key in wrapped and name in (EMBEDDING, LM_HEAD)
        for each in (EMBEDDING, LM_HEAD) if is_shared else (name,):
            changes[each] = Change(replacement=tensor)
    return changes


def _read_module(
    path: Path,
    config: AdapterConfig,
    module: str,
    parts: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, Change]]:
    """Yield the changes of one adapted module, each with the canonical name of the tensor."""
    name = canonical_name(f"{module}.weight")
    if name not in expected:
        raise CheckpointError(
            f"{path}: {quote_value(module)} is not a layer of the model that LoRA can be merged into; "
            f"{MERGE_WITH_PEFT}"
        )
    shape = tuple(expected[name])
    if TOKENS in parts:
        yield name, Change(rows=_read_rows(path, config, module, parts[TOKENS], shape))
        if len(parts) == 1:
            return
        raise CheckpointError(
            f"{path}: {quote_value(module)} has both trained token rows and LoRA factors; {MERGE_WITH_PEFT}"
        )
    is_embedding = not parts.keys().isdisjoint(EMBEDDED)
    names = EMBEDDED if is_embedding else LINEAR
    if missing := set(names) - parts.keys():
        raise CheckpointError(f"{path}: {quote_value(f'{PREFIX}{module}.{min(missing)}')} is missing")
    a, b = (parts[name] for name in names)
    rank = config.rank(module)
    inputs, outputs = (shape[:1], shape[1:]) if is_embedding else (shape[1:], shape[:1])
    fits = a.shape == (rank, *inputs) and b.shape == (*outputs, rank, *(1 for _ in shape[2:]))
    if len(shape) < 2 or not fits:
        shapes = f"A and B of shapes {quote_value((a.shape, b.shape))} and rank {rank}"
        raise CheckpointError(f"{path}: {quote_value(module)} has {shapes}, for a weight {list(shape)}")
    magnitude = next((parts[key] for key in parts if key.startswith(MAGNITUDE)), None)
    size = shape[-1] if is_embedding else shape[0]
    if (magnitude is not None) != config.use_dora or (magnitude and math.prod(magnitude.shape) != size):
        stated = f"use_dora is {config.use_dora}"
        raise CheckpointError(f"{path}: {quote_value(f'{module}.{MAGNITUDE}')} does not fit: {stated}")
    scale = config.scale(module)
    yield name, Change(products=(Product(a, b, scale, magnitude, is_embedding),))
    if (bias := parts.get("lora_B.bias")) is not None:
        name = name.removesuffix("weight") + "bias"
        if expected.get(name) != bias.shape:
            raise CheckpointError(
                f"{path}: {quote_value(module)} has no bias that lora_B.bias fits; {NOT_MERGEABLE}"
            )
        yield name, Change(offset=(bias, scale))


def _read_rows(
    path: Path, config: AdapterConfig, module: str, values: StoredTensor, shape: tuple[int, ...]
) -> TokenRows:
    ids = config.token_ids(module)
    if len(shape) != 2 or values.shape != (len(ids), shape[1]) or any(token >= shape[0] for token in ids):
        rows = f"{list(values.shape)} for {len(ids)} trainable_token_indices"
        raise CheckpointError(f"{path}: {quote_value(module)} has trained tokens of shape {rows}")
    return TokenRows(values, ids)


def _tie(changes: Mapping[str, Change]) -> dict[str, Change]:
    """Return the changes. If the output head changes like the embedding, leave out the change of the head."""
    tied = dict(changes)
    if EMBEDDING not in tied and LM_HEAD not in tied:
        return tied
    embedding, head = tied.pop(EMBEDDING, Change()), tied.pop(LM_HEAD, Change())
    if head.rows is None:  # PEFT gives a tied head the trained rows of the embedding
        head = replace(head, rows=embedding.rows)
    tied[EMBEDDING] = embedding
    return tied if changes_both_alike(embedding, head) else tied | {LM_HEAD: head}

"""A JAX checkpoint of big_vision in one .npz archive, opened as a Checkpoint.

The archive holds neither config.json nor a tokenizer. Tensors have the values that transformers' conversion
scripts give them; no number is rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.config_json import read_config_file
from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names
from paligemma_onnx.model.checkpoint.load import adapted_config
from paligemma_onnx.model.checkpoint.safetensors_file import StoredTensor
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model

from .jax_config import derive_config, sizes_of
from .jax_layout import ROWS, Rule, is_gemma2, rules_for
from .npz_file import StoredArray, open_npz

NPZ = ".npz"  # suffix of the file
# First part of the keys of the weights. A training state also has an optimizer state, which is not read.
PREFIXES = ("params/", "opt/target/")
TRAINING_STATE = ("opt/", "chrono/", "extra/")
# dtypes in the file. numpy has no bfloat16 and stores it as void; the bits are copied as an integer of the
# same size.
DTYPES: Mapping[np.dtype[Any], tuple[torch.dtype, np.dtype[Any]]] = {
    np.dtype("<f4"): (torch.float32, np.dtype("<f4")),
    np.dtype("<f2"): (torch.float16, np.dtype("<f2")),
    np.dtype("V2"): (torch.bfloat16, np.dtype("<i2")),
}
ROWS_AT_ONCE = 1 << 12  # rows of the embedding that are summed at once


def open_jax_checkpoint(
    path: Path,
    image_token: int,
    config_file: Path | None = None,
    adapters: Sequence[WeightedAdapter] = (),
) -> tuple[PaliGemmaConfig, Checkpoint]:
    """Return the configuration and the weights of an archive.

    Args:
        path: the .npz file.
        image_token: id of `<image>` in the tokenizer of the model.
        config_file: a file with the content of config.json; None derives the configuration from the shapes.
        adapters: folders of PEFT adapters to merge, with their weights.

    Raises:
        CheckpointError: the archive is damaged; an array is missing, unknown, or of another shape or dtype;
            the shapes do not determine the configuration; or an adapter cannot be merged.
    """
    arrays = _select_weights(path, open_npz(path))
    rules, layers = rules_for(arrays.keys())
    _check_keys(path, arrays, rules)
    config = None if config_file is None else read_config_file(config_file)
    sizes = _measure(path, arrays, rules, {} if config is None else sizes_of(config))
    if wrong := [letter for letter, count in layers.items() if sizes.get(letter, count) != count]:
        numbers = ", ".join(f"{layers[letter]} instead of {sizes[letter]}" for letter in wrong)
        raise CheckpointError(f"{path}: has another number of layers than {config_file} says: {numbers}")
    if config is None:
        config = derive_config(path, sizes | layers, image_token, is_gemma2=is_gemma2(arrays.keys()))
    elif is_gemma2(arrays.keys()) != config.text_config.has_post_norms:
        raise CheckpointError(
            f"{path}: holds the norms of another decoder than {config_file} describes: model_type is "
            f"{config.text_config.model_type!r}"
        )
    image_token, rows = config.image_token_index, sizes["V"]
    if not image_token <= rows <= config.text_config.vocab_size:
        raise CheckpointError(
            f"{path}: {ROWS} has {rows} rows, <image> has the id {image_token} and the vocabulary "
            f"{config.text_config.vocab_size} rows; give the tokenizer and the configuration of this model"
        )
    expected = {name: tuple(weight.shape) for name, weight in meta_model(config).named_parameters()}
    stored = [tensor for rule in rules for tensor in _cut(arrays[rule.key], rule, layers | sizes, expected)]
    checkpoint = Checkpoint.from_tensors(path, stored, expected, adapters, trained_rows=None)
    return adapted_config(config, checkpoint), checkpoint


def _select_weights(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """Return the model's arrays; the keys of the result lack the prefix of the weights."""
    prefix = next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in arrays)), "")
    weights = {key: array for key, array in arrays.items() if key.startswith(prefix)}
    others = [key for key in arrays if key not in weights and not key.startswith(TRAINING_STATE)]
    if prefix and others:
        raise CheckpointError(f"{path}: holds unknown arrays ({len(others)}): {quote_names(others)}")
    return {key.removeprefix(prefix): array for key, array in weights.items()}


def _check_keys(path: Path, arrays: Mapping[str, StoredArray], rules: list[Rule]) -> None:
    known = {rule.key for rule in rules}
    unreadable = [
        f"{array.key} is {array.dtype.str}"
        for key, array in arrays.items()
        if key in known and array.dtype not in DTYPES
    ]
    kinds = {
        "missing": known - arrays.keys(),
        "unknown": [arrays[key].key for key in arrays.keys() - known],
        "not float32, bfloat16 or float16": unreadable,
    }
    problems = [f"{kind} ({len(keys)}): {quote_names(keys)}" for kind, keys in kinds.items() if keys]
    if problems:
        raise CheckpointError(f"{path}: the arrays are not those of a PaliGemma; {'; '.join(problems)}")


def _measure(
    path: Path, arrays: Mapping[str, StoredArray], rules: list[Rule], sizes: dict[str, int]
) -> dict[str, int]:
    """Return the length of each axis by letter: the length in `sizes`, or else the most common one.

    Raises:
        CheckpointError: an array has another number of axes, or an axis of another length.
    """
    votes = dict[str, Counter[int]]()
    for rule in rules:
        shape = arrays[rule.key].shape
        for letter, length in zip(rule.axes, shape, strict=False):
            if len(shape) == len(rule.axes) and not letter.isdigit():
                votes.setdefault(letter, Counter())[length] += 1
    lengths = {letter: counter.most_common(1)[0][0] for letter, counter in votes.items()} | sizes
    misshapen = []
    for rule in rules:
        shape = arrays[rule.key].shape
        expected = [int(axis) if axis.isdigit() else lengths.get(axis, 0) for axis in rule.axes]
        if list(shape) != expected or 0 in shape:
            misshapen.append(f"{arrays[rule.key].key} {list(shape)} instead of {expected}")
    if misshapen:
        raise CheckpointError(f"{path}: misshapen ({len(misshapen)}): {quote_names(misshapen)}")
    return lengths


def _cut(
    array: StoredArray, rule: Rule, sizes: Mapping[str, int], expected: Mapping[str, tuple[int, ...]]
) -> list[StoredTensor]:
    """Return the tensors that are cut from an array."""
    dtype, _ = DTYPES[array.dtype]
    tensors = []
    for name, index in rule.tensors(sizes[rule.axes[0]] if rule.axes[0] in "lL" else 1):
        if rule.key == ROWS:
            load = partial(_load_rows, array, expected[name][0])
        else:
            axes = rule.axes[len(index) :]
            load = partial(_load, array, index, tuple(map(axes.index, rule.order)), expected[name])
        tensors.append(StoredTensor(array.path, name, dtype, expected[name], load, is_mapped=False))
    return tensors


def _load(
    array: StoredArray, index: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    """Read the part of an array at `index`; return it with permuted axes (`order`) and the given shape."""
    dtype, _ = DTYPES[array.dtype]
    part = torch.empty(array.shape[len(index) :], dtype=dtype)
    _copy(array, index, part)
    return part.permute(order).reshape(shape).contiguous()


def _load_rows(array: StoredArray, rows: int) -> Tensor:
    """Return the embedding with `rows` rows.

    The archive may lack the row of `<image>` and later rows without a token. The model never looks up these
    rows and never generates their ids. Each of them is set to the mean of the rows in the archive.
    transformers' conversion also uses the mean, and adds noise of 0.3 % of the standard deviation. The logit
    of an added row is the mean of the other logits, so it is never the largest.
    """
    dtype, _ = DTYPES[array.dtype]
    stored, width = array.shape
    table = torch.empty(rows, width, dtype=dtype)
    _copy(array, (), table[:stored])
    if rows > stored:
        sums = [block.sum(0, dtype=torch.float64) for block in table[:stored].split(ROWS_AT_ONCE)]
        table[stored:] = (torch.stack(sums).sum(0) / stored).to(dtype)
    return table


def _copy(array: StoredArray, index: tuple[int, ...], out: Tensor) -> None:
    """Copy the part of an array at `index` to `out`, because a mapping of the archive may be unaligned."""
    _, raw = DTYPES[array.dtype]
    target = out.view(torch.int16) if out.dtype == torch.bfloat16 else out
    np.copyto(target.numpy(), array.map(raw)[index])

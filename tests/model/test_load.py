"""A checkpoint's weights stay in the file, and give the same results as their float32 copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CASES
from closeness import assert_close
from safetensors.torch import load_file

from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.checkpoint.tensor_names import LM_HEAD, canonical_name
from paligemma_onnx.model.linear import TiedEmbedding
from paligemma_onnx.model.paligemma import PaliGemma


def load(folder: Path) -> PaliGemma:
    return load_model(*open_checkpoint(folder))


def offsets(file: Path) -> dict[str, int]:
    """Return the byte offset of each tensor by canonical name, from the header: its length, then JSON."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries: dict[str, Any] = json.loads(content[8 : 8 + length])
    return {
        canonical_name(name): entry["data_offsets"][0]
        for name, entry in entries.items()
        if name not in ("__metadata__", "lm_head.weight")
    }


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_mapped_from_the_files(checkpoint: Callable[[str], Path], name: str) -> None:
    """In memory their distances are those in the file, which copies would not have."""
    parameters = dict(load(checkpoint(name)).named_parameters())
    files = [offsets(file) for file in checkpoint(name).glob("*.safetensors")]
    assert sum(map(len, files)) == len(parameters)
    for file in files:
        starts = {parameters[key].data_ptr() - offset for key, offset in file.items()}
        assert len(starts) == 1
        assert {parameters[key].dtype for key in file} == {CASES[name].dtype}


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_the_stored_tensor(checkpoint: Callable[[str], Path], name: str) -> None:
    stored = {}
    for file in checkpoint(name).glob("*.safetensors"):
        stored |= {canonical_name(key): tensor for key, tensor in load_file(file).items()}
    parameters = dict(load(checkpoint(name)).named_parameters())
    assert stored.keys() - {LM_HEAD} == parameters.keys()
    for key, parameter in parameters.items():
        assert torch.equal(parameter, stored[key]), key


@pytest.mark.parametrize("name", CASES)
def test_narrow_weights_compute_as_their_float32_copies(checkpoint: Callable[[str], Path], name: str) -> None:
    """Casting at use and casting beforehand are the same arithmetic: results are equal to the last bit."""
    narrow, wide = load(checkpoint(name)), load(checkpoint(name)).float()
    side = narrow.config.vision_config.image_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ids, length = torch.tensor([[2, 300, 17, 108]]), torch.tensor([4])
    results = []
    for model in (narrow, wide):
        features = model.encode_image(pixels)
        logits, cache = model.prefill(ids, features, length)
        following, cache = model.decode_step(torch.tensor([[77]]), length + features.shape[1], cache)
        results.append([features, logits, following, *(tensor for layer in cache for tensor in layer)])
    for from_narrow, from_wide in zip(*results, strict=True):
        assert from_narrow.dtype == torch.float32
        assert torch.equal(from_narrow, from_wide)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows_at_once", [1, 7, 100, 101])
def test_logits_in_blocks_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows_at_once: int
) -> None:
    """A product of another width may sum in another order: one or two roundings of float32, 6e-8 each."""
    embedding = TiedEmbedding(100, 48)
    torch.nn.init.normal_(embedding.weight)
    embedding.to(dtype)
    monkeypatch.setattr(TiedEmbedding, "rows_at_once", rows_at_once)
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))
    whole = x.double() @ embedding.weight.double().T
    logits = embedding.logits(x)
    assert logits.dtype == torch.float32
    assert_close(f"blocks of {rows_at_once}", logits, whole, 1e-6)  # measured: up to 2e-7


def test_a_loaded_model_has_no_gradients_and_no_meta_tensors(checkpoint: Callable[[str], Path]) -> None:
    model = load(checkpoint("gemma_one_kv_head"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in model.state_dict(keep_vars=True).values())
    assert not any(buffer.is_meta for buffer in model.buffers())

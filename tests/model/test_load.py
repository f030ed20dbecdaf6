"""A checkpoint's weights stay in the file, and computing with them is computing with their float32 copies."""

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
from paligemma_onnx.model.checkpoint.tensor_names import canonical_name
from paligemma_onnx.model.linear import TiedEmbedding
from paligemma_onnx.model.paligemma import PaliGemma


def load(folder: Path) -> PaliGemma:
    return load_model(*open_checkpoint(folder))


def offsets(file: Path) -> dict[str, int]:
    """Where each tensor starts, by canonical name, from the header: its length, then JSON."""
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
    """In memory they lie beside each other as in the file, which copies do not."""
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
    assert stored.keys() - {"lm_head.weight"} == parameters.keys()
    for key, parameter in parameters.items():
        assert torch.equal(parameter, stored[key]), key


@pytest.mark.parametrize("name", CASES)
def test_narrow_weights_compute_as_their_float32_copies(checkpoint: Callable[[str], Path], name: str) -> None:
    """Casting at use and casting beforehand are the same arithmetic: equal to the last bit."""
    narrow, wide = load(checkpoint(name)), load(checkpoint(name)).float()
    side = narrow.config.vision_config.image_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ids, length = torch.tensor([[2, 300, 17, 108]]), torch.tensor([4])
    answers = []
    for model in (narrow, wide):
        features = model.encode_image(pixels)
        logits, cache = model.prefill(ids, features, length)
        following, cache = model.decode_step(torch.tensor([[77]]), length + features.shape[1], cache)
        answers.append([features, logits, following, *(tensor for layer in cache for tensor in layer)])
    for ours, theirs in zip(*answers, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows_at_once", [1, 7, 100, 101])
def test_logits_in_blocks_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows_at_once: int
) -> None:
    """A product of another width may sum in another order: a rounding or two of float32, 6e-8 each."""
    table = TiedEmbedding(100, 48)
    torch.nn.init.normal_(table.weight)
    table.to(dtype)
    monkeypatch.setattr(TiedEmbedding, "rows_at_once", rows_at_once)
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))
    whole = x.double() @ table.weight.double().T
    logits = table.logits(x)
    assert logits.dtype == torch.float32
    assert_close(f"blocks of {rows_at_once}", logits, whole, 1e-6)  # measured: up to 2e-7


def test_a_loaded_model_has_no_gradients_and_no_meta_tensors(checkpoint: Callable[[str], Path]) -> None:
    model = load(checkpoint("gemma_one_kv_head"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in model.state_dict(keep_vars=True).values())
    assert not any(buffer.is_meta for buffer in model.buffers())

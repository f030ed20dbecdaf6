"""Checkpoints with `"tie_word_embeddings": false`: the output head is a matrix of its own if it differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from closeness import assert_close
from untied_checkpoint import write_untied_checkpoint

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint

PROMPT = (2, 300, 17, 451, 108)


@pytest.mark.parametrize("case", ["gemma_one_kv_head", "gemma2_window"])
def test_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    reference = write_untied_checkpoint(case, tmp_path)
    config, checkpoint = open_checkpoint(tmp_path)
    assert not config.text_config.tied_head
    model = load_model(config, checkpoint)
    side, patches = config.vision_config.image_size, config.vision_config.num_patches
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(6)) * 2 - 1
    input_ids = torch.tensor([[*[reference.config.image_token_id] * patches, *PROMPT]])
    with torch.no_grad():
        expected = reference(
            input_ids=input_ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(input_ids),
            token_type_ids=torch.zeros_like(input_ids),
            logits_to_keep=1,
        ).logits[0]
    logits, _ = model.prefill(torch.tensor([PROMPT]), model.encode_image(pixels), torch.tensor([len(PROMPT)]))
    assert_close(case, logits, expected, 2e-5)  # as in test_paligemma.py


def test_a_stored_head_that_is_the_embedding_is_tied(tmp_path: Path) -> None:
    write_untied_checkpoint("gemma_one_kv_head", tmp_path, equal=True)
    config, checkpoint = open_checkpoint(tmp_path)
    assert config.text_config.tied_head
    assert checkpoint.has_tied_head


def test_an_adapter_of_the_embedding_is_refused(tmp_path: Path) -> None:
    import peft

    model = write_untied_checkpoint("gemma_one_kv_head", tmp_path / "checkpoint")
    options = peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    peft.get_peft_model(model, options).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(CheckpointError, match="which differ in this checkpoint; merge it with PEFT"):
        open_checkpoint(tmp_path / "checkpoint", (WeightedAdapter(tmp_path / "adapter"),))

"""Writes the trained model as PaliGemma is published: names, files and settings that transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from paligemma_onnx.export.sources.mask_decoder_npz import MASK_DECODER
from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.model.paligemma import PaliGemma

from .published_layout import published_config, published_name
from .sample_tokenizer import write_sample_tokenizer
from .tasks import MOST_NEW_TOKENS

# Half the room of float32, and with 11 bits of precision for 8 a rounding error an eighth of bfloat16's. No
# weight of so small a model comes near its range.
STORED = torch.float16


def write_model(folder: Path, model: PaliGemma, tokenizer: Tokenizer, masks: MaskDecoder) -> None:
    """Write the checkpoint in the published layout, and the mask decoder with the names of vae-oid.npz.

    Args:
        folder: replaced if it is there.
        model: trained.
        tokenizer: its own.
        masks: the decoder of its `<seg>` codes.
    """
    partly = folder.with_name(f"{folder.name}.partly")
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    weights = {
        published_name(name): weight.detach().to(STORED).contiguous()
        for name, weight in model.named_parameters()
    }
    save_file(weights, partly / "model.safetensors", metadata={"format": "pt"})
    (partly / "model.safetensors").chmod(0o644)
    _write_json(partly / "config.json", published_config(model.config))
    _write_json(partly / "generation_config.json", _generation(tokenizer))
    vision = model.config.vision_config
    write_sample_tokenizer(partly, tokenizer, image_size=vision.image_size, patch_size=vision.patch_size)
    decoder = {name: weight.detach().numpy() for name, weight in masks.state_dict().items()}
    np.savez(partly / MASK_DECODER, allow_pickle=False, **decoder)
    shutil.rmtree(folder, ignore_errors=True)
    partly.rename(folder)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _generation(tokenizer: Tokenizer) -> dict[str, object]:
    controls = {f"{name}_token_id": tokenizer.token_to_id(f"<{name}>") for name in ("bos", "eos", "pad")}
    return {**controls, "max_new_tokens": MOST_NEW_TOKENS}

"""Writing of the trained model in the layout of published PaliGemma checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from paligemma_onnx.export.sources.mask_decoder_npz import MASK_DECODER
from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.model.paligemma import PaliGemma

from .published_layout import published_config, published_name, write_json, write_processor_files
from .tasks import MAX_NEW_TOKENS
from .training_state import write_atomically

# float16 takes half the space of float32, and its 11 significant bits round an eighth as much as bfloat16's
# 8. The weights of a model this small are far inside its range.
STORED_DTYPE = torch.float16


def write_model(folder: Path, model: PaliGemma, tokenizer: Tokenizer, mask_decoder: MaskDecoder) -> None:
    """Write a checkpoint with its tokenizer and its mask decoder.

    Args:
        folder: the folder of the checkpoint; replaced if it exists.
        model: the trained model.
        tokenizer: the model's tokenizer.
        mask_decoder: decoder of the `<seg>` tokens, written with the parameter names of vae-oid.npz.
    """

    def write(partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_files(partial, model, tokenizer, mask_decoder)
        shutil.rmtree(folder, ignore_errors=True)

    write_atomically(folder, write)


def _write_files(folder: Path, model: PaliGemma, tokenizer: Tokenizer, mask_decoder: MaskDecoder) -> None:
    weights = {
        published_name(name): weight.detach().to(STORED_DTYPE).contiguous()
        for name, weight in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config.json", published_config(model.config))
    controls = {f"{name}_token_id": tokenizer.token_to_id(f"<{name}>") for name in ("bos", "eos", "pad")}
    write_json(folder / "generation_config.json", {**controls, "max_new_tokens": MAX_NEW_TOKENS})
    vision = model.config.vision_config
    write_processor_files(folder, tokenizer, image_size=vision.image_size, patch_size=vision.patch_size)
    arrays = {name: weight.detach().numpy() for name, weight in mask_decoder.state_dict().items()}
    np.savez(folder / MASK_DECODER, allow_pickle=False, **arrays)

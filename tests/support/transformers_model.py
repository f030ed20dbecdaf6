"""The included model in transformers, as a reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_onnx.export.demo.shipped_model import shipped_model


@cache
def transformers_model() -> tuple[Any, Any]:
    """Return the model and its processor, which pads on the left."""
    with shipped_model() as folder:
        model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        images = SiglipImageProcessorPil.from_pretrained(folder)
    return model.eval(), transformers.PaliGemmaProcessor(images, tokenizer)


def reference_inputs(texts: list[str], files: list[list[str]]) -> Any:
    """Return what the processor makes of prompts and of the image files of each row, padded on the left."""
    images = [[Image.open(file) for file in row] for row in files]
    return transformers_model()[1](images=images, text=texts, padding=True, return_tensors="pt")


def until_stop(ids: list[int]) -> list[int]:
    """Return the ids before the first stop id."""
    eos = transformers_model()[0].generation_config.eos_token_id
    return ids[: ids.index(eos)] if eos in ids else ids

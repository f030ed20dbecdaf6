"""The included model in transformers, as a reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
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

"""Random checkpoints, created and saved by transformers, in every published layout.

The cases differ in as many properties as possible, so that few exports cover every layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sample_tokenizer import build_sample_tokenizer

from training.published_layout import write_processor_files

PIECES, LOCATIONS, SEGMENTS = 600, 32, 16
IMAGE_TOKEN = PIECES + LOCATIONS + SEGMENTS
VOCABULARY = IMAGE_TOKEN + 8  # with untrained rows after `<image>`, like published embeddings


@dataclass(frozen=True)
class Case:
    """One layout of a checkpoint and one configuration."""

    name: str
    text: dict[str, Any]
    image_size: int
    dtype: torch.dtype
    layout: str  # names of tensors: "published", "in_memory" (model.language_model.*) or "saved"
    shards: bool  # several weight files
    stored_head: bool  # the output head is stored as a second copy of the embedding


CASES = {
    case.name: case
    for case in (
        Case(
            "gemma_one_kv_head",
            {"model_type": "gemma", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8},
            image_size=28,
            dtype=torch.bfloat16,
            layout="published",
            shards=False,
            stored_head=False,
        ),
        Case(
            "gemma_two_kv_heads",
            {"model_type": "gemma", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
            image_size=56,
            dtype=torch.float16,
            layout="in_memory",
            shards=True,
            stored_head=True,
        ),
        Case(
            "gemma2_window",
            {
                "model_type": "gemma2",
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 16,  # 8 * 16 is not the hidden size
                "query_pre_attn_scalar": 10,
                "sliding_window": 5,  # shorter than an answer and much shorter than the prefix
                "attn_logit_softcapping": 4.0,
                "final_logit_softcapping": 6.0,
            },
            image_size=224,
            dtype=torch.float32,
            layout="saved",
            shards=False,
            stored_head=False,
        ),
    )
}
TEXT_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
VISION_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}

POST_NORMS = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
# Factor for what layers add to the residual stream. Without it the embedding of the last token dominates the
# stream and, because the output head is the same matrix, every answer repeats this token for every image.
UPDATE_GAIN = 16.0
SEED = 2  # a seed with which the answers of every case depend on the image


def make_model(case: Case, seed: int = SEED) -> Any:
    """Return a float32 transformers model with random weights, whose answers depend on image and prompt."""
    import transformers

    vision = dict(
        model_type="siglip_vision_model",
        image_size=case.image_size,
        projection_dim=TEXT_SIZES["hidden_size"],
        vision_use_head=False,
        **VISION_SIZES,
    )
    config = transformers.PaliGemmaConfig(
        vision_config=vision,
        text_config={**TEXT_SIZES, **case.text},
        image_token_index=IMAGE_TOKEN,
        projection_dim=TEXT_SIZES["hidden_size"],
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng():  # the weights do not depend on what ran before
        torch.manual_seed(seed)
        model = transformers.PaliGemmaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.dim() == 1 or "embed_tokens" in name else weight[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                spread *= UPDATE_GAIN
            weight.add_(torch.randn(weight.shape, generator=generator) * spread)
            if case.text["model_type"] == "gemma2" and name.endswith(POST_NORMS):
                weight.add_(UPDATE_GAIN - 1)  # the gain is 1 + weight
    return model


def write_checkpoint(case: Case, folder: Path, seed: int = SEED) -> Path:
    """Save the model, its tokenizer and its processor settings in the layout of the case."""
    model = make_model(case, seed).to(case.dtype)
    model.save_pretrained(folder, max_shard_size="40KB" if case.shards else "5GB")
    tokenizer = build_sample_tokenizer(
        PIECES, LOCATIONS, SEGMENTS, adds_bos=case.text["model_type"] == "gemma"
    )
    write_processor_files(folder, tokenizer, image_size=case.image_size)
    if case.layout != "saved" or case.stored_head:
        _rename(folder, case)
    return folder


def _rename(folder: Path, case: Case) -> None:
    """Rewrite the weight files with the tensor names and the output head of the case."""
    index = folder / "model.safetensors.index.json"
    weight_map: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {_name(name, case.layout): tensor for name, tensor in load_file(file).items()}
        for name, tensor in list(tensors.items()):
            if case.stored_head and name.endswith("embed_tokens.weight"):
                tensors["lm_head.weight"] = tensor.clone()
        save_file(tensors, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
    if index.exists():
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _name(saved: str, layout: str) -> str:
    if layout == "published":
        return saved.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return "model." + saved.replace("language_model.model.", "language_model.", 1)

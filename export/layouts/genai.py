"""Settings that onnxruntime-genai reads from the folder of a model."""

from __future__ import annotations

import json

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.runtime.bundle.schema import Manifest

# onnxruntime-genai 0.18 has no type for PaliGemma. Gemma 3 has the same three graphs.
MODEL_TYPE = "gemma3"


def settings_files(config: PaliGemmaConfig, manifest: Manifest, tokenizer_json: bytes) -> dict[str, bytes]:
    """Return the contents of the settings files by name."""
    text, tokens, generation = config.text_config, manifest.tokens, manifest.generation
    names = {"inputs": "past_key_values", "outputs": "present"}
    cache = {
        part: {f"{kind}_{value}_names": f"{prefix}.%d.{value}" for value in ("key", "value")}
        for (part, prefix), kind in zip(names.items(), ("past", "present"), strict=True)
    }
    decoder = {
        "filename": "text.onnx",
        "session_options": {"provider_options": []},
        "hidden_size": text.hidden_size,
        "head_size": text.head_dim,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "inputs": _same_names("inputs_embeds", "attention_mask", "position_ids") | cache["inputs"],
        "outputs": _same_names("logits") | cache["outputs"],
    }
    content = {
        "model": {
            "type": MODEL_TYPE,
            "bos_token_id": tokens.bos,
            "eos_token_id": list(tokens.stop),
            "pad_token_id": tokens.pad,
            "image_token_id": tokens.image,
            "vocab_size": text.vocab_size,
            "context_length": text.max_position_embeddings,
            "decoder": decoder,
            "embedding": {
                "filename": "embedding.onnx",
                "inputs": _same_names("input_ids", "image_features"),
                "outputs": _same_names("inputs_embeds"),
            },
            "vision": {
                "filename": "vision.onnx",
                "inputs": _same_names("pixel_values"),
                "outputs": _same_names("image_features"),
            },
        },
        "search": {
            "do_sample": generation.temperature > 0,
            "temperature": generation.temperature or 1.0,
            "top_k": generation.top_k,  # 0: no limit, as in a bundle
            "top_p": generation.top_p,
            "repetition_penalty": generation.repetition_penalty,
            "max_length": text.max_position_embeddings,
            # The decoder returns a cache that is longer than its input.
            "past_present_share_buffer": False,
        },
    }
    return {
        "genai_config.json": (json.dumps(content, indent=2) + "\n").encode(),
        "tokenizer.json": tokenizer_json,
    }


def _same_names(*names: str) -> dict[str, str]:
    return {name: name for name in names}

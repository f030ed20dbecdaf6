"""Write the language model of a checkpoint as a separate checkpoint that other tools can read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model
from training.published_layout import published_config

from ..checkpoint import CHUNK, write_json, write_weights

# Prefixes of parameter names: in this project's model, and in the files of a Gemma checkpoint.
PALIGEMMA_PREFIX, GEMMA_PREFIX = "language_model.", "model."
ARCHITECTURES = {"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM"}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def make_text_checkpoint(checkpoint: Path) -> Path:
    """Write a text-only checkpoint next to a checkpoint unless it exists, and return its folder.

    Args:
        checkpoint: checkpoint of a PaliGemma in the published layout, in bfloat16.
    """
    folder = checkpoint.with_name(f"{checkpoint.name}-text")
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    config, weights = open_checkpoint(checkpoint)
    write_json(partial / "config.json", text_config(config))
    for name in TOKENIZER:
        shutil.copyfile(checkpoint / name, partial / name)
    parameters = meta_model(config).named_parameters()
    shapes = {
        text_name(name): tuple(weight.shape)
        for name, weight in parameters
        if name.startswith(PALIGEMMA_PREFIX)
    }

    def chunks(name: str, _shape: tuple[int, ...]) -> Iterator[Tensor]:
        yield from weights.tensor(PALIGEMMA_PREFIX + name.removeprefix(GEMMA_PREFIX)).flatten().split(CHUNK)

    write_weights(partial, shapes, chunks)
    partial.rename(folder)
    return folder


def text_name(name: str) -> str:
    """Return the name of a parameter in the files of a Gemma checkpoint."""
    return GEMMA_PREFIX + name.removeprefix(PALIGEMMA_PREFIX)


def text_config(config: PaliGemmaConfig) -> dict[str, object]:
    """Return the content of config.json, including the keys for which readers have other defaults."""
    text = published_config(config)["text_config"]
    assert isinstance(text, dict)
    return {
        "architectures": [ARCHITECTURES[config.text_config.model_type]],
        "torch_dtype": "bfloat16",  # dtype of the stored weights
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos_token_id": 2,  # this id and the next two ids are those of the published tokenizer
        "eos_token_id": 1,
        "pad_token_id": 0,
        **text,
    }

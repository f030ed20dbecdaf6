"""A checkpoint's language model as a checkpoint of its own, which is what other tools read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model
from training.published_layout import published_config

from ..checkpoint import PIECE, write_json, write_weights

OURS, THEIRS = "language_model.", "model."  # prefixes of the parameters' names
ARCHITECTURES = {"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM"}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def make_text_checkpoint(checkpoint: Path) -> Path:
    """The folder of the text-only checkpoint beside the whole one, written unless it is there.

    Args:
        checkpoint: a PaliGemma in the published layout, bfloat16.
    """
    folder = checkpoint.with_name(f"{checkpoint.name}-text")
    if folder.exists():
        return folder
    partly = folder.with_name(f"{folder.name}.partly")
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir()
    config, weights = open_checkpoint(checkpoint)
    write_json(partly / "config.json", text_config(config))
    for name in TOKENIZER:
        shutil.copyfile(checkpoint / name, partly / name)
    parameters = meta_model(config).named_parameters()
    shapes = {text_name(name): tuple(weight.shape) for name, weight in parameters if name.startswith(OURS)}

    def pieces(name: str, _shape: tuple[int, ...]) -> Iterator[Tensor]:
        yield from weights.tensor(OURS + name.removeprefix(THEIRS)).flatten().split(PIECE)

    write_weights(partly, shapes, pieces, lambda _: None)
    partly.rename(folder)
    return folder


def text_name(name: str) -> str:
    """A parameter's name in files of a Gemma alone."""
    return THEIRS + name.removeprefix(OURS)


def text_config(config: PaliGemmaConfig) -> dict[str, object]:
    """Content of config.json, with what readers do not take from their own defaults."""
    text = published_config(config)["text_config"]
    assert isinstance(text, dict)
    return {
        "architectures": [ARCHITECTURES[config.text_config.model_type]],
        "torch_dtype": "bfloat16",  # as it is stored
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos_token_id": 2,  # as published
        "eos_token_id": 1,
        "pad_token_id": 0,
        **text,
    }

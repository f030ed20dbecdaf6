"""Settings that transformers.js reads from the folder of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

MODEL_TYPE, ARCHITECTURE = "paligemma", "PaliGemmaForConditionalGeneration"
PROCESSOR = "PaliGemmaProcessor"
# Pillow's number of a filter. In Node, transformers.js resizes with `bicubic` without antialiasing, so its
# pixels differ by 0.035 on average from those of Pillow's bicubic filter, which the model was trained with.
# `lanczos` resizes with antialiasing and differs by 0.006. Browsers ignore the setting.
LANCZOS = 1


def settings_files(
    config: PaliGemmaConfig,
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    tokenizer_json: bytes,
    dtypes: tuple[str, ...],
    data_files: Mapping[str, int],
) -> dict[str, bytes]:
    """Return the contents of the settings files by name.

    Args:
        config: configuration of the model.
        manifest: facts of the model.
        tokenizer: the tokenizer of the model.
        tokenizer_json: content of the checkpoint's tokenizer.json.
        dtypes: number formats in the folder; the first is the default.
        data_files: number of weight files of each graph file.
    """
    contents = {
        "config.json": _model_config(config, dtypes[0], data_files),
        "generation_config.json": _generation_config(manifest),
        "preprocessor_config.json": _preprocessor_config(manifest),
        "tokenizer_config.json": _tokenizer_config(tokenizer),
        # The processor of transformers.js writes `<bos>` into the text, and a post-processor would add
        # another one.
        "tokenizer.json": {**json.loads(tokenizer_json), "post_processor": None},
    }
    return {name: _to_json(content) for name, content in contents.items()}


def _to_json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _model_config(config: PaliGemmaConfig, dtype: str, data_files: Mapping[str, int]) -> dict[str, object]:
    text = {key: value for key, value in asdict(config.text_config).items() if key != "tied_head"}
    vision = asdict(config.vision_config) | {"model_type": "siglip_vision_model"}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "image_token_index": config.image_token_index,
        "text_config": text,
        "vision_config": vision,
        # Without a dtype, transformers.js asks for fp32 in Node and for q8 in browsers.
        "transformers.js_config": {"dtype": dtype, "use_external_data_format": dict(data_files)},
    }


def _generation_config(manifest: Manifest) -> dict[str, object]:
    defaults, tokens = manifest.generation, manifest.tokens
    content: dict[str, object] = {
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.stop),
        "pad_token_id": tokens.pad,
        "max_new_tokens": defaults.max_new_tokens,
        "do_sample": defaults.temperature > 0,
    }
    if defaults.temperature > 0:
        content |= {"temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p}
    if defaults.repetition_penalty != 1:
        content["repetition_penalty"] = defaults.repetition_penalty
    if defaults.suppress_tokens:
        content["suppress_tokens"] = list(defaults.suppress_tokens)
    return content


def _preprocessor_config(manifest: Manifest) -> dict[str, object]:
    image = manifest.image
    return {
        "processor_class": PROCESSOR,
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": image.tokens,
        "size": {"height": image.size, "width": image.size},
        "do_resize": True,
        "resample": LANCZOS,
        "do_rescale": True,
        "rescale_factor": image.rescale_factor,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def _tokenizer_config(tokenizer: PromptTokenizer) -> dict[str, object]:
    library = tokenizer.library
    return {
        "tokenizer_class": "GemmaTokenizer",
        "processor_class": PROCESSOR,
        "bos_token": library.id_to_token(tokenizer.bos_id),
        "eos_token": library.id_to_token(tokenizer.eos_id),
        "pad_token": library.id_to_token(tokenizer.pad_id),
        "additional_special_tokens": [library.id_to_token(tokenizer.image_id)],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }

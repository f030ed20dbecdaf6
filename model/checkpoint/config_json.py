"""Reading of config.json. An absent key gets transformers' default; an unimplemented setting is an error.

Each section belongs to a configuration class of transformers. transformers omits every key whose value equals
the default of the class, so a missing key means the default, and published files hold little more than sizes.
The section of the decoder is read by text_config_json.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..config import PaliGemmaConfig, VisionConfig
from .config_keys import (
    GEMMA2_KEYS,
    MAX_DIMENSION,
    MAX_LAYERS,
    MAX_SIDE,
    QUANTIZATION,
    TOP_ACCEPTED,
    TOP_KEYS,
    VISION_ACCEPTED,
    VISION_KEYS,
)
from .errors import quote_value
from .json_file import Section, read_json
from .text_config_json import read_text_config

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 20  # published: about 1 KiB; with all defaults written out: about 10 KiB


def read_config(folder: Path) -> PaliGemmaConfig:
    """Return the configuration in `config.json` of a checkpoint folder; see `read_config_file`."""
    return read_config_file(folder / CONFIG)


def read_config_file(path: Path) -> PaliGemmaConfig:
    """Return the configuration in a file that has the content of config.json; see `parse_config`."""
    return parse_config(path, read_json(path, MAX_CONFIG_BYTES))


def parse_config(path: Path, values: Mapping[str, object]) -> PaliGemmaConfig:
    """Return the configuration that the content of a config.json describes; `path` is named in errors.

    No memory is allocated for the sizes that the file names.

    The key `image_token_index` is required. transformers replaces a missing key by 256000, but 256000 is
    `<loc0000>` in every published tokenizer. The caller checks that the id is the tokenizer's `<image>`.

    Raises:
        CheckpointError: the file is missing or is not JSON, describes another model, names a size out of
            bounds, or has a setting that this model does not implement.
    """
    top = Section(path, "", values)
    if "model_type" not in top.values:
        raise top.error("model_type", "is missing; a PaliGemma checkpoint has 'paligemma' there")
    top.check_values(TOP_ACCEPTED)
    text = read_text_config(top.get_section("text_config"))
    text = replace(text, tied_head=top.values.get("tie_word_embeddings", True) is True)
    vision = _read_vision_config(top.get_section("vision_config"))
    # The top level's hidden_size is ignored: transformers always writes 2048, even if the decoder has
    # another width.
    width = top.values.get("projection_dim", text.hidden_size)
    if width != text.hidden_size:
        raise top.error(
            "projection_dim", f"is {quote_value(width)}; text_config.hidden_size is {text.hidden_size}"
        )
    return PaliGemmaConfig(vision, text, _read_image_token_index(top))


def find_unused_settings(path: Path) -> list[str]:
    """Return a note for each setting without effect in a config.json that `read_config_file` accepts."""
    top = Section(path, "", read_json(path, MAX_CONFIG_BYTES))
    text, vision = top.get_section("text_config"), top.get_section("vision_config")
    quantized = [part.prefix for part in (top, text, vision) if part.values.get(QUANTIZATION)]
    notes = [f"{path}: {part}{QUANTIZATION} is not used; the weights are not quantised" for part in quantized]
    for part, known in ((top, TOP_KEYS), (text, GEMMA2_KEYS), (vision, VISION_KEYS)):
        notes += [
            f"{path}: {part.prefix}{key} is {quote_value(value)} and not used"
            for key, value in part.find_unknown(known).items()
        ]
    return notes


def _read_vision_config(section: Section) -> VisionConfig:
    """Return SigLIP's sizes; the defaults are those of transformers' SiglipVisionConfig."""
    section.check_values(VISION_ACCEPTED)
    section.refuse_unknown(VISION_KEYS, accept_off=True)
    config = VisionConfig(
        hidden_size=section.get_integer("hidden_size", 768, 1, MAX_DIMENSION),
        intermediate_size=section.get_integer("intermediate_size", 3072, 1, MAX_DIMENSION),
        num_hidden_layers=section.get_integer("num_hidden_layers", 12, 1, MAX_LAYERS),
        num_attention_heads=section.get_integer("num_attention_heads", 12, 1, MAX_DIMENSION),
        image_size=section.get_integer("image_size", 224, 1, MAX_SIDE),
        patch_size=section.get_integer("patch_size", 16, 1, MAX_SIDE),
        layer_norm_eps=section.get_positive("layer_norm_eps", 1e-6, 1.0),
    )
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise section.error("hidden_size", f"is {width}, not a multiple of num_attention_heads {heads}")
    if config.image_size < config.patch_size:
        raise section.error("image_size", f"is {config.image_size}, less than patch_size {config.patch_size}")
    if config.num_patches > MAX_DIMENSION:
        raise section.error("image_size", f"makes {config.num_patches} patches, over {MAX_DIMENSION}")
    return config


def _read_image_token_index(top: Section) -> int:
    """Return the id of `<image>`. transformers stores the id under either of two keys."""
    keys = [key for key in ("image_token_index", "image_token_id") if key in top.values]
    if not keys:
        raise top.error("image_token_index", "is missing; add the id that tokenizer.json gives <image>")
    ids = {top.get_integer(key, None, 0, MAX_DIMENSION) for key in keys}
    if len(ids) > 1:
        raise top.error(
            "image_token_index", "and image_token_id differ; keep the one that agrees with tokenizer.json"
        )
    return ids.pop()

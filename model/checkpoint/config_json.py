"""Reads config.json: what published files leave out is filled in, what is not implemented is refused.

transformers leaves out of a section what equals the default of its class, so a missing key means that
default, and published files hold little more than sizes. The decoder's section is text_config_json.py's work.
"""

from __future__ import annotations

from pathlib import Path

from ..config import PaliGemmaConfig, VisionConfig
from .config_keys import MAX_DIMENSION, MAX_LAYERS, MAX_SIDE, TOP_ACCEPTED, VISION_ACCEPTED, VISION_KEYS
from .errors import quote_value
from .json_file import read_json
from .json_section import Section
from .text_config_json import text_config

MAX_CONFIG_BYTES = 1 << 20  # published files have about 1 KiB, those with every default written out about 10


def read_config(folder: Path) -> PaliGemmaConfig:
    """Read `config.json` of a checkpoint folder; nothing is allocated by the sizes it names.

    `image_token_index` must be there: transformers would take 256000 for a missing one, which is `<loc0000>`
    in every published tokenizer. Whether the id is the tokenizer's `<image>` is for the caller to check.

    Raises:
        CheckpointError: no such file, not JSON, another model, a size out of bounds, or a setting that this
            model does not implement.
    """
    path = folder / "config.json"
    top = Section(str(path), "", read_json(path, MAX_CONFIG_BYTES))
    if "model_type" not in top.values:
        raise top.error("model_type", "is missing; a PaliGemma checkpoint says 'paligemma' there")
    top.must_be(TOP_ACCEPTED)
    text = text_config(top.section("text_config"))
    vision = _vision_config(top.section("vision_config"))
    # The top level's hidden_size is not looked at: it stays at 2048 whatever the decoder's width is.
    width = top.values.get("projection_dim", text.hidden_size)
    if width != text.hidden_size:
        raise top.error(
            "projection_dim", f"is {quote_value(width)}; text_config.hidden_size is {text.hidden_size}"
        )
    return PaliGemmaConfig(vision, text, _image_token_index(top))


def _vision_config(section: Section) -> VisionConfig:
    """SigLIP's section; the defaults are those of transformers' SiglipVisionConfig."""
    section.must_be(VISION_ACCEPTED)
    section.refuse_unknown(VISION_KEYS)
    config = VisionConfig(
        hidden_size=section.integer("hidden_size", 768, 1, MAX_DIMENSION),
        intermediate_size=section.integer("intermediate_size", 3072, 1, MAX_DIMENSION),
        num_hidden_layers=section.integer("num_hidden_layers", 12, 1, MAX_LAYERS),
        num_attention_heads=section.integer("num_attention_heads", 12, 1, MAX_DIMENSION),
        image_size=section.integer("image_size", 224, 1, MAX_SIDE),
        patch_size=section.integer("patch_size", 16, 1, MAX_SIDE),
        layer_norm_eps=section.positive("layer_norm_eps", 1e-6, 1.0),
    )
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise section.error("hidden_size", f"is {width}, no multiple of num_attention_heads {heads}")
    if config.image_size < config.patch_size:
        raise section.error("image_size", f"is {config.image_size}, less than patch_size {config.patch_size}")
    if config.num_patches > MAX_DIMENSION:
        raise section.error("image_size", f"makes {config.num_patches} patches, over {MAX_DIMENSION}")
    return config


def _image_token_index(top: Section) -> int:
    """The id of `<image>`; `image_token_id` is transformers' other name for it."""
    names = [name for name in ("image_token_index", "image_token_id") if name in top.values]
    if not names:
        raise top.error("image_token_index", "is missing; add the id that tokenizer.json gives <image>")
    ids = {top.integer(name, None, 0, MAX_DIMENSION) for name in names}
    if len(ids) > 1:
        raise top.error(
            "image_token_index", "and image_token_id differ; keep the one tokenizer.json agrees with"
        )
    return ids.pop()

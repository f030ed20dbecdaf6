"""The configuration of a JAX checkpoint, derived from the shapes of its arrays.

Lengths of axes are named by the letters of jax_layout.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from paligemma_onnx.model import presets
from paligemma_onnx.model.checkpoint.config_json import parse_config
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.config import PaliGemmaConfig

# transformers' conversion adds two tokens, then rounds up to this multiple (convert_paligemma_weights_to_hf).
ADDED_TOKENS, MULTIPLE = 2, 64
# The published sizes of Gemma 2. Their divisor of attention scores does not follow from the shapes.
_GEMMA2 = (presets.paligemma2_3b(224), presets.paligemma2_10b(224), presets.paligemma2_28b(224))
_TEXT = "LDFAKH"


def sizes_of(config: PaliGemmaConfig) -> dict[str, int]:
    """Return the length of each axis of a model by letter, without V: an archive may have fewer rows."""
    vision, text = config.vision_config, config.text_config
    return {
        "p": vision.patch_size,
        "q": vision.patch_size,
        "c": 3,
        "d": vision.hidden_size,
        "f": vision.intermediate_size,
        "a": vision.num_attention_heads,
        "h": vision.head_dim,
        "i": vision.num_patches,
        "l": vision.num_hidden_layers,
        "L": text.num_hidden_layers,
        "D": text.hidden_size,
        "F": text.intermediate_size,
        "A": text.num_attention_heads,
        "K": text.num_key_value_heads,
        "H": text.head_dim,
    }


def derive_config(
    path: Path, sizes: Mapping[str, int], image_token: int, *, is_gemma2: bool
) -> PaliGemmaConfig:
    """Return the configuration of a model whose arrays have these lengths.

    All other settings have transformers' defaults, like the config.json of the published models. The final
    soft cap of PaliGemma 2 is 30, as in pretraining and in the published safetensors; big_vision sets it to 0
    in transfers. The cap changes the probabilities of tokens, but not their order.

    Raises:
        CheckpointError: the lengths contradict each other, or do not determine the configuration.
    """
    side = math.isqrt(sizes["i"])
    lengths = {letter: sizes.get(letter, sizes["A"] if letter == "K" else 0) for letter in _TEXT}
    if side**2 != sizes["i"] or sizes["p"] != sizes["q"] or sizes["c"] != 3:
        raise CheckpointError(
            f"{path}: img/embedding/kernel and img/pos_embedding are not those of square images in three "
            "colours"
        )
    if sizes["a"] * sizes["h"] != sizes["d"]:
        raise CheckpointError(f"{path}: {sizes['a']} heads of width {sizes['h']} do not make {sizes['d']}")
    text = dict[str, object](
        model_type="gemma2" if is_gemma2 else "gemma",
        vocab_size=_count_rows(sizes["V"], image_token),
        num_hidden_layers=lengths["L"],
        hidden_size=lengths["D"],
        intermediate_size=lengths["F"],
        num_attention_heads=lengths["A"],
        num_key_value_heads=lengths["K"],
        head_dim=lengths["H"],
    )
    if is_gemma2:
        published = next((each for each in _GEMMA2 if lengths.items() <= sizes_of(each).items()), None)
        if published is None:
            raise CheckpointError(
                f"{path}: is not a published size of PaliGemma 2; shapes do not tell its soft caps, window "
                "and query_pre_attn_scalar: give --config config.json"
            )
        text["query_pre_attn_scalar"] = published.text_config.query_pre_attn_scalar
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": sizes["d"],
        "intermediate_size": sizes["f"],
        "num_hidden_layers": sizes["l"],
        "num_attention_heads": sizes["a"],
        "image_size": side * sizes["p"],
        "patch_size": sizes["p"],
    }
    top = {"model_type": "paligemma", "image_token_index": image_token, "projection_dim": lengths["D"]}
    return parse_config(path, top | {"text_config": text, "vision_config": vision})


def _count_rows(rows: int, image_token: int) -> int:
    """Return the number of rows of the model's embedding, given that the archive has `rows` rows.

    The model has more rows than the archive if the archive has no row for `<image>`.
    """
    return rows if rows > image_token else -(-(rows + ADDED_TOKENS) // MULTIPLE) * MULTIPLE

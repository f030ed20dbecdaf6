"""The manifest of a bundle before any file is written."""

from __future__ import annotations

from paligemma_onnx.model.skeleton import skeleton
from paligemma_onnx.runtime.bundle.schema import SCHEMA_VERSION, GenerationDefaults, Manifest, Recipe

from ..graphs.specs import OPSETS, declare, specs
from ..precisions import PRECISIONS
from ..source import Source
from . import manifest_facts as facts

# Tokens an answer gets when nobody says: captions and answers are shorter, twenty objects' boxes are not.
MAX_NEW_TOKENS = 256


def draft(source: Source, precision: str) -> Manifest:
    """What the manifest says before a file is written; raises CheckpointError."""
    config, recipe = source.config, PRECISIONS[precision]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        bundle_id="",
        model=facts.model_facts(config, sum(weight.numel() for weight in skeleton(config).parameters())),
        image=facts.image_facts(source.folder, config),
        tokens=facts.token_facts(source.folder, config),
        cache=facts.cache_facts(config, recipe),
        graphs=specs(declare(config, recipe, source.mask_decoder)),
        recipe=Recipe(
            precision, OPSETS[recipe.cache], facts.matrices(recipe), recipe.wide_batch, recipe.devices
        ),
        generation=GenerationDefaults(min(MAX_NEW_TOKENS, config.text_config.max_position_embeddings)),
        producer=facts.producer(),
        files={},
    )

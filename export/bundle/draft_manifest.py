"""The manifest of a bundle before any file is written."""

from __future__ import annotations

from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.schema import SCHEMA_VERSION, GenerationDefaults, Manifest, PrecisionFacts

from ..graphs.specs import OPSETS, graph_definitions, graph_specs
from ..precisions import PRECISIONS
from ..source import Source
from . import manifest_facts as facts

# Tokens an answer gets when nobody says: captions and answers are shorter, twenty objects' boxes are not.
MAX_NEW_TOKENS = 256


def draft_manifest(source: Source, precision: str) -> Manifest:
    """What the manifest says before a file is written; raises CheckpointError."""
    config, formats = source.config, PRECISIONS[precision]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        bundle_id="",
        model=facts.model_facts(config, sum(weight.numel() for weight in meta_model(config).parameters())),
        image=facts.image_facts(source.folder, config),
        tokens=facts.token_facts(source.folder, config),
        cache=facts.cache_facts(config, formats),
        graphs=graph_specs(graph_definitions(config, formats, source.mask_decoder)),
        precision=PrecisionFacts(
            precision, OPSETS[formats.cache], facts.matrices(formats), formats.wide_batch, formats.devices
        ),
        generation=GenerationDefaults(min(MAX_NEW_TOKENS, config.text_config.max_position_embeddings)),
        producer=facts.producer(),
        files={},
    )

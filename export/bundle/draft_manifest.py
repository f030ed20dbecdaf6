"""The manifest of a bundle before its files are written."""

from __future__ import annotations

from paligemma_onnx.runtime.bundle.schema import SCHEMA_VERSION, GenerationDefaults, Manifest

from ..graphs.specs import graph_definitions, graph_specs
from ..precisions import PRECISIONS
from ..source import Source
from . import manifest_facts as facts

# Default limit of generated tokens. Captions and answers are shorter; boxes of twenty objects are longer.
MAX_NEW_TOKENS = 256


def draft_manifest(source: Source, precision_name: str) -> Manifest:
    """Return a manifest that lacks the id, the files, and the digests and operators of the graphs.

    Raises:
        CheckpointError: files of the checkpoint are missing, damaged or contradict each other, or the
            precision does not support the model.
    """
    config, precision = source.config, PRECISIONS[precision_name]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        bundle_id="",
        model=facts.describe_model(config),
        image=facts.read_image_facts(source.path, config),
        tokens=facts.read_token_facts(source.path, config, source.tokenizer),
        cache=facts.describe_cache(config, precision),
        graphs=graph_specs(graph_definitions(config, precision, source.mask_decoder)),
        precision=facts.describe_precision(precision_name),
        generation=GenerationDefaults(min(MAX_NEW_TOKENS, config.text_config.max_position_embeddings)),
        producer=facts.describe_producer(),
        files={},
    )

"""The manifest of a bundle before its files are written."""

from __future__ import annotations

from paligemma_onnx.runtime.bundle.schema import SCHEMA_VERSION, Manifest

from ..graphs.specs import graph_definitions, graph_specs
from ..precisions import PRECISIONS
from ..source import Source
from ..sources.tokenizer_file import find_missing_tokens
from . import manifest_facts as facts
from .generation_config import GenerationConfig, read_generation_config


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
        model=facts.describe_model(config, source.checkpoint.nf4 or "stored"),
        image=facts.read_image_facts(source.path, config),
        tokens=facts.read_token_facts(source.path, config, source.tokenizer),
        cache=facts.describe_cache(config, precision),
        graphs=graph_specs(graph_definitions(config, precision, source.mask_decoder)),
        precision=facts.describe_precision(precision_name),
        generation=_generation_config(source).defaults,
        producer=facts.describe_producer(),
        files={},
    )


def export_notes(source: Source) -> list[str]:
    """Return messages for the user about settings in the checkpoint's files that the export ignores.

    Raises:
        CheckpointError: a file is damaged.
    """
    conflict = facts.find_processor_conflict(source.path, source.config)
    missing = find_missing_tokens(source.tokenizer)
    notes = (*source.checkpoint.notes, conflict, missing, *_generation_config(source).notes)
    return [note for note in notes if note is not None]


def _generation_config(source: Source) -> GenerationConfig:
    text = source.config.text_config
    return read_generation_config(
        source.path, vocab_size=text.vocab_size, context_length=text.max_position_embeddings
    )

"""Layouts: folders of graphs and settings in the form that another tool expects.

transformers.js    JavaScript, in Node and in browsers
genai              onnxruntime-genai
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from paligemma_onnx.runtime.bundle.layout_record import LayoutName
from paligemma_onnx.runtime.bundle.schema import GenerationDefaults
from paligemma_onnx.runtime.errors import OptionError

from ..precisions import PRECISIONS, EmbeddingFormat, Precision, WeightFormat

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
# Names of transformers.js for number formats (transformers.js, src/utils/dtypes.js): the suffix of the files,
# and the precision whose formats the graphs have.
SUFFIXES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4"}
PRECISION_NAMES = {"fp32": "fp32", "fp16": "fp16", "q8": "int8", "q4": "int4-portable"}
# Part of a bundle's precision that a graph of a layout corresponds to.
ROLES = {
    "vision_encoder": "vision_encoder",
    "vision": "vision_encoder",
    "embed_tokens": "embedding",
    "embedding": "embedding",
    "decoder_model_merged": "decode",
    "text": "decode",
}


# The setting of generation_config.json that transformers.js 4.3 or onnxruntime-genai 0.18 ignores.
IGNORED_SETTINGS = {"transformers.js": "top_p", "genai": "suppress_tokens"}


@dataclass(frozen=True)
class GraphFormats:
    """Formats of the numbers of one graph."""

    matrices: WeightFormat
    embedding: EmbeddingFormat


def graph_formats(graph: str, precision: Precision) -> GraphFormats:
    """Return the formats of a graph, given its name in a layout."""
    matrices: WeightFormat = getattr(precision, ROLES[graph])
    return GraphFormats(matrices, precision.embedding)


def precision_of(dtype: str) -> Precision:
    """Return the precision of a dtype of transformers.js."""
    return PRECISIONS[PRECISION_NAMES[dtype]]


def graph_path(layout: LayoutName, file: str, dtype: str) -> str:
    """Return the path of a file in the folder of a layout: embed_tokens.onnx -> onnx/embed_tokens_q4.onnx."""
    if layout == "genai":
        return file
    stem, _, suffix = file.rpartition(".")
    return f"onnx/{stem}{SUFFIXES[dtype]}.{suffix}"


def ignored_setting(layout: LayoutName, generation: GenerationDefaults) -> str | None:
    """Return a line about a setting of the checkpoint that the other tool ignores, or None."""
    name = IGNORED_SETTINGS[layout]
    if getattr(generation, name) == getattr(GenerationDefaults(generation.max_new_tokens), name):
        return None
    return f"generation_config.json sets {name}, which {layout} ignores; answers may differ from a bundle's"


def check_dtypes(layout: LayoutName, dtypes: tuple[str, ...]) -> None:
    """Raise OptionError if the dtypes cannot be written into one folder."""
    for dtype in dtypes:
        if dtype not in SUFFIXES:
            raise OptionError(f"dtype {dtype!r} is unknown; choose from {', '.join(SUFFIXES)}")
    if len(set(dtypes)) < len(dtypes):
        raise OptionError("--dtype names a number format twice")
    if layout == "genai" and len(dtypes) > 1:
        raise OptionError("--layout genai takes one --dtype; export each dtype to another folder")

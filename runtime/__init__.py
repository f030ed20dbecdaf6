"""Runs an exported PaliGemma bundle with onnxruntime: no torch, no transformers.

from paligemma_onnx.runtime import PaliGemma
model = PaliGemma.load("bundle/")
print(model.generate("photo.jpg", "caption en").text)
"""

from .answer import Generation, Options, Request, Timings
from .cancellation import Cancellation
from .errors import (
    BundleError,
    ImageError,
    NumericsError,
    OptionError,
    PaliGemmaError,
    PromptError,
    ProviderError,
    ResourceError,
)
from .paligemma import PaliGemma, Stream
from .picture import Picture

__all__ = [
    "BundleError",
    "Cancellation",
    "Generation",
    "ImageError",
    "NumericsError",
    "OptionError",
    "Options",
    "PaliGemma",
    "PaliGemmaError",
    "Picture",
    "PromptError",
    "ProviderError",
    "Request",
    "ResourceError",
    "Stream",
    "Timings",
]

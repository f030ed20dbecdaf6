"""Types of the public names, which `__init__.py` imports on first use."""

from .cancellation import Cancellation
from .detection.detection import Detection
from .detection.detections import Detections
from .detection.masks import Mask
from .detection.parsing import Box
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
from .generation.stream import Stream
from .generation.types import Generation, Options, Request, Timings
from .image.picture import Picture
from .paligemma import PaliGemma

__all__ = [
    "Box",
    "BundleError",
    "Cancellation",
    "Detection",
    "Detections",
    "Generation",
    "ImageError",
    "Mask",
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

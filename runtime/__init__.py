"""Run an exported PaliGemma bundle with onnxruntime, without torch or transformers.

Example:
    >>> from paligemma_onnx.runtime import PaliGemma
    >>> model = PaliGemma.load("bundle/")
    >>> model.generate("photo.jpg", "caption en").text
    'a red car parked on the street'
    >>> model.detect("photo.jpg", ["car", "person"]).drawn().save("detections.png")
"""

from importlib import import_module

from .telemetry import disable_telemetry

disable_telemetry()

# Public name -> module. A module is imported when one of its names is first used, so that the command line
# can handle Ctrl-C before NumPy is imported. `__init__.pyi` has the same names for type checkers.
_MODULES = {
    "Box": ".detection.parsing",
    "BundleError": ".errors",
    "Cancellation": ".cancellation",
    "Detection": ".detection.detection",
    "Detections": ".detection.detections",
    "Generation": ".generation.types",
    "ImageError": ".errors",
    "Mask": ".detection.masks",
    "NumericsError": ".errors",
    "OptionError": ".errors",
    "Options": ".generation.types",
    "PaliGemma": ".paligemma",
    "PaliGemmaError": ".errors",
    "Picture": ".image.picture",
    "PromptError": ".errors",
    "ProviderError": ".errors",
    "Request": ".generation.types",
    "ResourceError": ".errors",
    "Stream": ".generation.stream",
    "Timings": ".generation.types",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    """Import a public name.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})

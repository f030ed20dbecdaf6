"""Import onnxruntime on first use, with an error that names the missing package."""

from __future__ import annotations

from typing import Any

from ..errors import ProviderError, ResourceError
from ..resource_errors import resource_problem


def import_onnxruntime() -> Any:
    """The engine, or a message that says how to install one.

    Raises:
        ProviderError: neither onnxruntime nor onnxruntime-gpu is installed, or it does not load.
        ResourceError: out of memory.
    """
    try:
        import onnxruntime  # noqa: PLC0415  the only heavy import, put off until a graph is opened
    except ModuleNotFoundError:
        raise ProviderError(
            "no execution engine: install one with `pip install 'paligemma-onnx[cpu]'` "
            "(or [gpu] for CUDA, never both)"
        ) from None
    except ImportError as error:
        if words := resource_problem(error):
            raise ResourceError(f"onnxruntime: {words}") from error
        raise ProviderError(f"onnxruntime is installed and does not load: {error}") from error
    return onnxruntime

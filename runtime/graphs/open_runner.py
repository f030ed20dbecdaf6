"""Open the graphs of a bundle with the engine that the user chose."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from ..bundle.schema import Manifest
from ..engine.devices import Placement
from ..engine.prepared_graphs import find_prepared
from ..errors import BundleError, OptionError, quote
from .model_runner import ModelRunner
from .onnx_runner import OnnxModelRunner
from .openvino_runner import OpenVinoRunner

Engine = Literal["onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def check_engine(engine: str, device: str) -> None:
    """Check the name of an engine, and that it runs on a device.

    Raises:
        OptionError: the engine is unknown, or does not run on the device.
    """
    if engine not in ENGINES:
        raise OptionError(f"engine is {quote(engine)}, expected {' or '.join(ENGINES)}")
    if engine == "openvino" and device not in ("auto", "cpu"):
        raise OptionError(f"the engine openvino runs on the CPU, and device is {device!r}")


def open_runner(
    folder: Path, manifest: Manifest, placement: Placement, engine: str, on_opening: Callable[[], object]
) -> ModelRunner:
    """Return a runner with open graphs. onnxruntime opens the prepared graphs, if there are any.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        placement: device of the graphs.
        engine: a name of `ENGINES`.
        on_opening: called when graphs begin to open, again if prepared graphs do not open.

    Raises:
        BundleError, ProviderError, ResourceError: as in `OnnxModelRunner.open` and `OpenVinoRunner.open`.
    """
    if engine == "openvino":
        return OpenVinoRunner.open(folder, manifest, placement, on_opening)
    if prepared := find_prepared(manifest, placement):
        try:
            return OnnxModelRunner.open(folder, manifest, placement, prepared=prepared, on_opening=on_opening)
        except BundleError:
            message = f"prepared graphs do not open; run `paligemma-onnx prepare {folder}` again"
            warnings.warn(message, stacklevel=4)
    return OnnxModelRunner.open(folder, manifest, placement, on_opening=on_opening)

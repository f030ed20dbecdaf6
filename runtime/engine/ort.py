"""Import onnxruntime on first use, and the part of its Python interface that this package uses.

onnxruntime has no type information; the protocols here stand for its classes of the same or a similar name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from ..bundle.graph_interface import GraphInterface
from ..errors import ProviderError, ResourceError
from ..resource_errors import resource_problem


class OrtValue(Protocol):
    """`onnxruntime.OrtValue`: a tensor on a device."""

    def data_ptr(self) -> int:
        """Return the address in the memory of the device."""

    def numpy(self) -> NDArray[Any]:
        """Return the content: on the CPU a view, from a GPU a copy."""

    def shape(self) -> list[int]:
        """Return the shape."""

    def update_inplace(self, content: NDArray[Any]) -> None:
        """Overwrite the content with an array of the same size and dtype."""


class IoBinding(Protocol):
    """`onnxruntime.IOBinding`: the memory that a run reads and writes."""

    def bind_cpu_input(self, name: str, array: NDArray[Any], /) -> None:
        """Bind an input to an array, which the caller must keep until the run has ended."""

    def bind_input(
        self, name: str, device: str, index: int, dtype: int, shape: Sequence[int], address: int, /
    ) -> None:
        """Bind an input to memory of a device; `dtype` is a number of TensorProto.DataType."""

    def bind_output(
        self,
        name: str,
        device: str = "cpu",
        index: int = 0,
        dtype: int | None = None,
        shape: Sequence[int] | None = None,
        address: int | None = None,
        /,
    ) -> None:
        """Bind an output to memory of a device; without an address onnxruntime allocates it."""

    def get_outputs(self) -> Sequence[OrtValue]:
        """Return the outputs in the order of their binding."""


class RunOptions(Protocol):
    """`onnxruntime.RunOptions`: settings of one run."""

    terminate: bool  # set to True from another thread to stop the run

    def add_run_config_entry(self, key: str, value: str, /) -> None:
        """Set an option."""


class SessionOptions(Protocol):
    """`onnxruntime.SessionOptions`: settings of a session."""

    intra_op_num_threads: int
    log_severity_level: int
    graph_optimization_level: object
    execution_order: object
    optimized_model_filepath: str

    def add_session_config_entry(self, key: str, value: str, /) -> None:
        """Set an option."""

    def add_initializer(self, name: str, value: OrtValue, /) -> None:
        """Use a tensor in place of an initializer of the graph; the caller must keep it."""


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that runs a graph."""

    def io_binding(self) -> IoBinding:
        """Return a new binding."""

    def run_with_iobinding(self, binding: IoBinding, options: RunOptions, /) -> None:
        """Run the graph on bound memory."""


class InferenceSession(Session, GraphInterface, Protocol):
    """`onnxruntime.InferenceSession`: an open graph."""

    def get_providers(self) -> list[str]:
        """Return the execution providers in the order of their priority."""

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Run the graph on arrays."""


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        ProviderError: neither onnxruntime nor onnxruntime-gpu is installed, or it does not load.
        ResourceError: out of memory.
    """
    try:
        import onnxruntime  # noqa: PLC0415  the only heavy import; not needed before a graph is opened
    except ModuleNotFoundError:
        raise ProviderError(
            "onnxruntime is not installed: `pip install 'paligemma-onnx[cpu]'` "
            "(or [gpu] for CUDA; the two cannot be installed together)"
        ) from None
    except ImportError as error:
        if words := resource_problem(error):
            raise ResourceError(f"onnxruntime: {words}") from error
        raise ProviderError(f"onnxruntime is installed and does not load: {error}") from error
    module: ModuleType = onnxruntime
    return module

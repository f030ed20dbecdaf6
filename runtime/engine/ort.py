"""Import onnxruntime on first use, and declare the part of its Python interface that this package uses.

onnxruntime has no type information. Each protocol here describes the class that its docstring names.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from numpy.typing import NDArray

from ..bundle.graph_interface import GraphInterface
from ..errors import ProviderError, ResourceError
from ..resource_errors import resource_problem


class OrtValue(Protocol):
    """`onnxruntime.OrtValue`: a tensor on a device."""

    def data_ptr(self) -> int:
        """Return the address of the content in device memory."""

    def numpy(self) -> NDArray[Any]:
        """Return the content as an array: a view on the CPU, a copy on a GPU."""

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
        """Bind an input to device memory; `dtype` is a number of TensorProto.DataType."""

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
        """Bind an output to device memory. If `address` is None, onnxruntime allocates the memory."""

    def get_outputs(self) -> Sequence[OrtValue]:
        """Return the outputs of the last run in the order in which they were bound."""


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
        """Use a tensor in place of an initializer of the graph. The caller must keep the tensor."""


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that runs a graph."""

    def io_binding(self) -> IoBinding:
        """Return a new, empty binding for this session."""

    def run_with_iobinding(self, binding: IoBinding, options: RunOptions, /) -> None:
        """Run the graph on the memory that the binding names."""


class InferenceSession(Session, GraphInterface, Protocol):
    """`onnxruntime.InferenceSession`: an open graph."""

    def get_providers(self) -> list[str]:
        """Return the execution providers in the order of their priority."""

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Run the graph on arrays, and return the outputs as arrays."""


class OrtValueClass(Protocol):
    """The class `onnxruntime.OrtValue`."""

    def ortvalue_from_numpy(self, array: NDArray[Any], /) -> OrtValue:
        """Return a tensor on the CPU that shares the memory of a contiguous array."""


class InferenceSessionClass(Protocol):
    """The class `onnxruntime.InferenceSession`."""

    def __call__(
        self,
        model: str | bytes,
        options: SessionOptions,
        /,
        *,
        providers: Sequence[str | tuple[str, dict[str, str]]],
        enable_fallback: int = 1,
    ) -> InferenceSession:
        """Open a graph from a file or from a serialized model, and return its session."""


NewSessionOptions = Callable[[], SessionOptions]
NewRunOptions = Callable[[], RunOptions]


class Onnxruntime(Protocol):
    """The module `onnxruntime`."""

    __version__: str
    cuda_version: str  # exists only in builds with CUDA
    SessionOptions: NewSessionOptions
    RunOptions: NewRunOptions
    InferenceSession: InferenceSessionClass
    OrtValue: OrtValueClass
    # Enumerations, and objects that only onnxruntime reads.
    GraphOptimizationLevel: Any
    ExecutionOrder: Any
    OrtAllocatorType: Any
    OrtArenaCfg: Any
    OrtMemoryInfo: Any
    OrtMemType: Any
    capi: Any

    def __hash__(self) -> int:
        """Return a hash, because this module is an argument of cached functions."""

    def get_available_providers(self) -> list[str]:
        """Return the execution providers that onnxruntime was built with."""

    def get_build_info(self) -> str:
        """Return a description of the build."""

    def set_default_logger_severity(self, severity: int, /) -> None:
        """Log only messages of this severity and above; severities are 0 (verbose) to 4 (fatal)."""

    def preload_dlls(self, *, cuda: bool, cudnn: bool) -> None:
        """Load the libraries of CUDA and cuDNN."""

    def create_and_register_allocator_v2(
        self, provider: str, memory: Any, options: dict[str, str], arena: Any, /
    ) -> None:
        """Create an arena that sessions can share."""


def import_onnxruntime() -> Onnxruntime:
    """Import onnxruntime, and return the module.

    The first import runs in another thread, because Python handles signals in the main thread: an interrupt
    inside the initialization of onnxruntime's C++ code would leave the module broken or abort the process.

    Raises:
        ProviderError: neither onnxruntime nor onnxruntime-gpu is installed, or the installed package does not
            load.
        ResourceError: out of memory.
    """
    try:
        if "onnxruntime" not in sys.modules:
            _load_unwinder()
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(_import).result()
        return _import()
    except ModuleNotFoundError:
        raise ProviderError(
            "onnxruntime is not installed: `pip install 'paligemma-onnx[cpu]'` "
            "(or [gpu] for CUDA; the two cannot be installed together)"
        ) from None
    except ImportError as error:
        if words := resource_problem(error):
            raise ResourceError(f"onnxruntime: {words}") from error
        raise ProviderError(f"onnxruntime is installed and does not load: {error}") from error


def _load_unwinder() -> None:
    """Call glibc's `backtrace`, which loads the library that unwinds C++ exceptions.

    Otherwise glibc loads this library at the first C++ exception. If memory is exhausted at that time, glibc
    ends the process, and onnxruntime's error about the memory is lost.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc; on Windows `CDLL(None)` fails
        ctypes.CDLL(None).backtrace((ctypes.c_void_p * 1)(), 1)


def _import() -> Onnxruntime:
    import onnxruntime  # noqa: PLC0415  the only heavy import; not needed before a graph is opened

    module: Onnxruntime = onnxruntime
    return module

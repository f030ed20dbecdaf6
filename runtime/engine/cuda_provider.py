"""Configure onnxruntime's CUDA provider, start it, and translate its errors.

If CUDA does not start, onnxruntime only logs a warning and continues on the CPU. So this module first opens a
graph of a single operator. If that fails, the error and its reason are reported before gigabytes of weights
are read.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from importlib.resources import files
from threading import Lock, RLock

from ..errors import PaliGemmaError, ProviderError, ResourceError
from ..resource_errors import resource_problem
from .cuda_diagnosis import cuda_error_text, diagnose_startup, preload_libraries
from .int8_overflow import PROBE
from .nvidia_driver import query_driver
from .ort import Onnxruntime

PROVIDER = "CUDAExecutionProvider"
MIN_BFLOAT16_COMPUTE = (8, 0)  # compute capability of the first GPUs that multiply bfloat16: Ampere
_ARENA = "Cuda"  # onnxruntime's name of GPU memory
_SAME_AS_REQUESTED = 1  # onnxruntime's ArenaExtendStrategy: allocate what is requested
# While a CUDA graph is captured, any other GPU call of the process fails or invalidates the capture
# (cudaStreamCaptureModeGlobal). So only one thread at a time calls the GPU.
_device_lock = RLock()
_start_lock = Lock()  # several threads open sessions
_limits: dict[int, int] = {}  # limit of the shared arena in bytes, by GPU index


def check_gpu(index: int, dtype: str) -> None:
    """Check that a GPU can run the kernels for a bundle's dtype.

    Raises:
        ProviderError: the GPU cannot run them.
    """
    gpus = query_driver().gpus
    if dtype == "bfloat16" and index < len(gpus) and gpus[index].compute < MIN_BFLOAT16_COMPUTE:
        gpu = gpus[index]
        raise ProviderError(
            f"{gpu.name} has compute capability {gpu.compute[0]}.{gpu.compute[1]}, bfloat16 needs "
            f"{MIN_BFLOAT16_COMPUTE[0]}.{MIN_BFLOAT16_COMPUTE[1]}; export again with --precision fp16"
        )


def provider_options(index: int, *, cuda_graph: bool) -> dict[str, str]:
    """Return the CUDA provider's options for a session.

    Args:
        index: index of the GPU.
        cuda_graph: whether runs are captured as CUDA graphs and replayed. If so, the shapes and addresses
            of inputs and outputs must stay the same.
    """
    return {
        "device_id": str(index),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles the arena and wastes the surplus
        "use_tf32": "0",  # TF32 rounds float32 products to 11 bits
        "enable_cudnn": "0",  # 0.5 GB of libraries for convolutions, which the graphs do not contain
        "enable_cuda_graph": str(int(cuda_graph)),
    }


def device_lock(device: str) -> AbstractContextManager[object]:
    """Return the lock that serialises calls to the GPU. For the CPU, return a context that does nothing."""
    return _device_lock if device == "cuda" else nullcontext()


def start(ort: Onnxruntime, index: int) -> None:
    """Start CUDA on a GPU if it has not started. CUDA's libraries may come from the system or from pip.

    Raises:
        ProviderError: CUDA does not start; the message contains the reason and the remedy.
        ResourceError: out of GPU memory.
    """
    with _start_lock:
        _start(ort, index)


@cache
def _start(ort: Onnxruntime, index: int) -> None:
    ort.set_default_logger_severity(4)  # fatal: errors need no log, since they are raised
    preload_libraries(ort)
    _limit_arena_growth(ort)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    graph = (files(__package__) / PROBE).read_bytes()
    cause: Exception | None = None
    try:
        provider = (PROVIDER, provider_options(index, cuda_graph=False))
        session = ort.InferenceSession(graph, options, providers=[provider], enable_fallback=0)
        if session.get_providers()[0] == PROVIDER:
            return
    except Exception as error:  # onnxruntime's exceptions have no common base class
        if words := resource_problem(error, device="cuda"):
            raise ResourceError(words) from error
        cause = error
    raise ProviderError(f"CUDA does not start: {diagnose_startup(ort, index, cause)}") from cause


def _limit_arena_growth(ort: Onnxruntime) -> None:
    """Make the process-wide arena of OrtValues grow only by the size that is requested.

    By default the arena doubles when it grows: 5 GB of weights then take 8.6 GB. onnxruntime marks the
    function that sets the growth as deprecated, and has no replacement for that function.
    """
    state = ort.capi.onnxruntime_pybind11_state
    with suppress(AttributeError):
        state.set_arena_extend_strategy(state.ArenaExtendStrategy.kSameAsRequested)


def shared_arena_option(ort: Onnxruntime, index: int, limit: int) -> tuple[str, str]:
    """Create an arena of at most `limit` bytes on a GPU, and return the session option that selects it.

    By default each session has a separate arena, and the limit applies to each arena: three sessions could
    take three times the limit. All sessions that are opened with the same limit share the arena created here.
    """
    with _start_lock:
        if _limits.get(index) != limit:
            _create_arena(ort, index, limit)
            _limits[index] = limit
    return "session.use_env_allocators", "1"


def _create_arena(ort: Onnxruntime, index: int, limit: int) -> None:
    """Create the shared arena of a GPU. Sessions that are already open keep the arena that they use."""
    allocator, memory_type = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    memory = ort.OrtMemoryInfo(_ARENA, allocator, index, memory_type)
    arena = ort.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": _SAME_AS_REQUESTED})
    options = provider_options(index, cuda_graph=False)
    ort.create_and_register_allocator_v2(PROVIDER, memory, options, arena)


def to_public_error(error: BaseException, subject: str, device: str) -> PaliGemmaError | None:
    """Return the public error for an onnxruntime exception; None if neither memory nor the GPU caused it.

    Args:
        error: the exception.
        subject: the beginning of the message, such as a file name.
        device: "cpu" or "cuda".
    """
    if words := resource_problem(error, device=device):
        return ResourceError(f"{subject}: {words}")
    if device == "cuda" and (words := cuda_error_text(error)):
        return ProviderError(f"{subject}: the GPU failed, {words}; see `paligemma-onnx doctor`")
    return None

"""Sessions on an NVIDIA GPU: how they are set up, and why there are none where CUDA does not start.

The engine only warns when CUDA does not start, and goes on with the CPU. So a graph of a single operator is
opened first: what is wrong is then told before gigabytes of weights are read, and told in words.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from functools import cache
from importlib.resources import files
from io import StringIO
from threading import Lock, RLock
from typing import Any

from ..errors import PaliGemmaError, ProviderError, ResourceError
from ..resource_errors import resource_problem
from .int8_overflow import PROBE
from .nvidia_driver import LIBRARY, Driver, this_driver

PROVIDER = "CUDAExecutionProvider"
# What the provider is linked with, `{}` for the major version of CUDA that it was built for.
TOOLKIT = ("libcublasLt.so.{}", "libcublas.so.{}", "libcurand.so.10", "libcudart.so.{}")
INSTALL = "pip install 'paligemma-onnx[gpu,cuda]'"
BFLOAT16 = (8, 0)  # compute capability from which GPUs multiply bfloat16: Ampere
VISIBLE = "CUDA_VISIBLE_DEVICES"  # environment variable that hides GPUs from CUDA
_FAILURE = re.compile(r"(?:CUDA|CUBLAS|CUBLASLT|CURAND) (?:failure \d+|error \w+): ?([^;\n]+)")
_ARENA = "Cuda"  # the engine's name of a GPU's memory
_AS_REQUESTED = 1  # of its arena: grow by what is asked for
# While a step is recorded, whatever else the process asks of a GPU spoils the recording or is refused
# (cudaStreamCaptureModeGlobal). So one thread at a time asks.
_asking = RLock()
_starting = Lock()  # sessions are opened by several threads
_limits: dict[int, int] = {}  # of the arenas that sessions can share now, by GPU


def check_gpu(index: int, dtype: str) -> None:
    """Raise ProviderError where a GPU has no kernels for a bundle's arithmetic."""
    gpus = this_driver().gpus
    if dtype == "bfloat16" and index < len(gpus) and gpus[index].compute < BFLOAT16:
        gpu = gpus[index]
        raise ProviderError(
            f"{gpu.name} has compute capability {gpu.compute[0]}.{gpu.compute[1]}, bfloat16 needs "
            f"{BFLOAT16[0]}.{BFLOAT16[1]}; export again with --precision fp16"
        )


def provider_options(index: int, *, recorded: bool) -> dict[str, str]:
    """The provider's options of a session.

    Args:
        index: which GPU.
        recorded: whether runs are recorded and played back (CUDA graphs): shapes and addresses of inputs and
            outputs must then stay what they were.
    """
    return {
        "device_id": str(index),
        "arena_extend_strategy": "kSameAsRequested",  # else the arena doubles, and takes what nobody uses
        "use_tf32": "0",  # float32 is float32, with 24 bits and not 11
        "enable_cudnn": "0",  # half a gigabyte of libraries for convolutions, of which there are none here
        "enable_cuda_graph": str(int(recorded)),
    }


def device_lock(device: str) -> AbstractContextManager[object]:
    """To be held while a device is asked for something; nothing on a CPU."""
    return _asking if device == "cuda" else nullcontext()


def start(ort: Any, index: int) -> None:
    """Have CUDA start on a GPU, once; its libraries may be on the system or installed by pip.

    Raises:
        ProviderError: it does not, with the reason and what mends it.
        ResourceError: the GPU's memory is used up.
    """
    with _starting:
        _start(ort, index)


@cache
def _start(ort: Any, index: int) -> None:
    ort.set_default_logger_severity(4)  # what goes wrong is raised, and told by us
    _preload(ort)
    _grow_as_asked(ort)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    graph = (files(__package__) / PROBE).read_bytes()
    cause: Exception | None = None
    try:
        chosen = [(PROVIDER, provider_options(index, recorded=False))]
        session = ort.InferenceSession(graph, options, providers=chosen, enable_fallback=0)
        if session.get_providers()[0] == PROVIDER:
            return
    except Exception as error:  # the engine has no common base for what it raises
        if words := resource_problem(error, device="cuda"):
            raise ResourceError(words) from error
        cause = error
    raise ProviderError(f"CUDA does not start: {diagnose_startup(ort, index, cause)}") from cause


@cache
def _preload(ort: Any) -> None:
    """Load CUDA's libraries from where pip has put them; what is missing, the engine prints on stdout."""
    with redirect_stdout(StringIO()):
        ort.preload_dlls(cuda=True, cudnn=False)


def _grow_as_asked(ort: Any) -> None:
    """Have OrtValues, too, take what they need: their memory is of an arena of the process, which doubles.

    5 GB of weights would take 8.6 GB. The engine calls the function deprecated, and has no other one for it.
    """
    state = ort.capi.onnxruntime_pybind11_state
    with suppress(AttributeError):
        state.set_arena_extend_strategy(state.ArenaExtendStrategy.kSameAsRequested)


def limit_memory(ort: Any, index: int, limit: int) -> tuple[str, str]:
    """Have one arena on a GPU, of so many bytes at most; returns the option by which a session takes it.

    An arena of its own, which a session has otherwise, is limited for itself, and three take three times as
    much. This one is shared by all sessions of the process that were opened with the limit.
    """
    with _starting:
        if _limits.get(index) != limit:
            _make_arena(ort, index, limit)
            _limits[index] = limit
    return "session.use_env_allocators", "1"


def _make_arena(ort: Any, index: int, limit: int) -> None:
    """In place of the one there was, which sessions that have it keep."""
    kind, held = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    where = ort.OrtMemoryInfo(_ARENA, kind, index, held)
    arena = ort.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": _AS_REQUESTED})
    options = provider_options(index, recorded=False)
    ort.create_and_register_allocator_v2(PROVIDER, where, options, arena)


def to_public_error(error: BaseException, what: str, device: str) -> PaliGemmaError | None:
    """An error of the engine's as one of ours, where memory or the GPU is the matter.

    Args:
        error: what the engine raised.
        what: was being done.
        device: where.
    """
    if words := resource_problem(error, device=device):
        return ResourceError(f"{what}: {words}")
    if device == "cuda" and (words := cuda_error_text(error)):
        return ProviderError(f"{what}: the GPU failed, {words}; see `paligemma-onnx doctor`")
    return None


def cuda_error_text(error: BaseException) -> str | None:
    """What CUDA says went wrong, without the engine's file names; None where it was not CUDA."""
    found = _FAILURE.search(str(error))
    return found[1].strip() if found else None


def diagnose_startup(ort: Any, index: int, error: BaseException | None = None) -> str:
    """Why CUDA does not start on a GPU, and what mends it, in one line.

    Args:
        ort: the engine.
        index: of the GPU.
        error: what the engine raised, if it did.
    """
    _preload(ort)
    built = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    if missing := _missing(built):
        return "; ".join(missing)
    driver = this_driver()
    if problem := _problem(driver, int(built) if built.isdigit() else 0):
        return problem
    count = len(driver.gpus)
    if index >= count:
        there = "cuda" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        return f"there is no GPU {index}, only {there}"
    words = cuda_error_text(error) if error is not None else None
    return words or "the engine does not say why; its version and the driver's may not fit"


def _missing(built: str) -> list[str]:
    """Libraries that do not load, each kind with what brings it."""
    known = TOOLKIT if built and platform.system() == "Linux" else ()
    absent = [name for name in (one.format(built) for one in known) if not _loads(name)]
    told = [f"{', '.join(absent)} not found: `{INSTALL}`"] if absent else []
    if not _loads(LIBRARY):
        told.append(
            f"{LIBRARY} not found: install NVIDIA's driver (a container needs to be given the GPU: "
            "`docker run --gpus all`)"
        )
    return told


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _problem(driver: Driver, built: int) -> str | None:
    """What keeps the driver from running anything of ours."""
    if driver.cuda is not None and driver.cuda[0] < built:
        major, minor = driver.cuda
        return f"the NVIDIA driver is for CUDA {major}.{minor}, the engine needs {built}: update the driver"
    if driver.gpus:
        return None
    hidden = os.environ.get(VISIBLE)
    why = f" ({driver.error})" if driver.error else ""
    also = f"; {VISIBLE} is {hidden!r}" if hidden is not None else ""
    return f"the NVIDIA driver has no GPU to offer{why}{also}"

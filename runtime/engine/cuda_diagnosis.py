"""Find out why CUDA does not start: missing libraries, an old driver, no GPU."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from contextlib import redirect_stdout
from functools import cache
from io import StringIO

from .nvidia_driver import LIBRARY, Driver, query_driver
from .ort import Onnxruntime

# Libraries that the CUDA provider is linked with. `{}` is the CUDA major version of the onnxruntime build.
TOOLKIT = ("libcublasLt.so.{}", "libcublas.so.{}", "libcurand.so.10", "libcudart.so.{}")
INSTALL = "pip install 'paligemma-onnx[gpu,cuda]'"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"  # environment variable that hides GPUs from CUDA
_CUDA_ERROR = re.compile(r"(?:CUDA|CUBLAS|CUBLASLT|CURAND) (?:failure \d+|error \w+): ?([^;\n]+)")


def cuda_error_text(error: BaseException) -> str | None:
    """Return CUDA's error message without onnxruntime's file names, or None if CUDA caused no error."""
    match = _CUDA_ERROR.search(str(error))
    return match[1].strip() if match else None


@cache
def preload_libraries(ort: Onnxruntime) -> None:
    """Load the CUDA libraries that pip installed; onnxruntime prints missing libraries on stdout."""
    with redirect_stdout(StringIO()):
        ort.preload_dlls(cuda=True, cudnn=False)


def diagnose_startup(ort: Onnxruntime, index: int, error: BaseException | None = None) -> str:
    """Return one line that says why CUDA does not start on a GPU, and the remedy.

    Args:
        ort: onnxruntime.
        index: index of the GPU.
        error: the exception that onnxruntime raised; None: it raised none.
    """
    preload_libraries(ort)
    cuda_major = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    if missing := _missing_libraries(cuda_major):
        return "; ".join(missing)
    driver = query_driver()
    if problem := _driver_problem(driver, int(cuda_major) if cuda_major.isdigit() else 0):
        return problem
    count = len(driver.gpus)
    if index >= count:
        available = "cuda" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        return f"there is no GPU {index}, only {available}"
    text = cuda_error_text(error) if error is not None else None
    return text or "onnxruntime does not report the reason; its version may not fit the driver's"


def _missing_libraries(cuda_major: str) -> list[str]:
    """Return a phrase for each kind of missing library: its name and how to install it."""
    names = TOOLKIT if cuda_major and platform.system() == "Linux" else ()
    missing = [name for name in (template.format(cuda_major) for template in names) if not _loads(name)]
    phrases = [f"{', '.join(missing)} not found: `{INSTALL}`"] if missing else []
    if not _loads(LIBRARY):
        phrases.append(
            f"{LIBRARY} not found: install NVIDIA's driver (a container needs access to the GPU: "
            "`docker run --gpus all`)"
        )
    return phrases


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _driver_problem(driver: Driver, cuda_major: int) -> str | None:
    """Return why the driver cannot run onnxruntime's kernels, or None if it can run them."""
    if driver.cuda is not None and driver.cuda[0] < cuda_major:
        version = "CUDA {}.{}".format(*driver.cuda)
        return f"the NVIDIA driver is for {version}, onnxruntime needs {cuda_major}: update the driver"
    if driver.gpus:
        return None
    hidden = os.environ.get(VISIBLE_DEVICES)
    reason = f" ({driver.error})" if driver.error else ""
    variable = f"; {VISIBLE_DEVICES} is {hidden!r}" if hidden is not None else ""
    return f"the NVIDIA driver has no GPU to offer{reason}{variable}"

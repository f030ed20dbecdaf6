"""Check the installation: list package versions and usable devices, and say how to install missing ones."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ..console import printable
from ..engine import cuda_provider as cuda
from ..engine.cuda_diagnosis import INSTALL
from ..engine.devices import available_devices, parse_device
from ..engine.nvidia_driver import Gpu, query_driver
from ..engine.ort import import_onnxruntime
from ..errors import PaliGemmaError, ProviderError, ResourceError
from ..telemetry import VARIABLE as TELEMETRY_VARIABLE
from ..telemetry import telemetry_is_disabled
from .machine import this_machine

RUNTIME = ("paligemma-onnx", "numpy", "pillow", "tokenizers", "click", "dacite")
ENGINES = ("onnxruntime", "onnxruntime-gpu")
EXPORT = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors")
OPTIONAL = ("transformers", "optimum", "huggingface_hub", "pyarrow", "ray")
GIB = 1 << 30  # bytes


@dataclass(frozen=True)
class Diagnosis:
    """The state of this installation and machine."""

    python: str
    system: str
    versions: dict[str, str | None]  # version of each distribution; None: not installed
    devices: tuple[str, ...]  # devices that can run a bundle
    gpus: tuple[Gpu, ...]  # all GPUs of the NVIDIA driver
    driver: tuple[int, int] | None  # newest CUDA version that the NVIDIA driver supports; None: no driver
    unusable: dict[str, str]  # devices that onnxruntime supports but that do not work, with the reason
    telemetry_disabled: bool  # whether an environment variable disables onnxruntime's telemetry
    threads: int
    memory_bytes: int | None
    advice: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Return whether a bundle can run on this machine with this installation."""
        return bool(self.devices)


def diagnose() -> Diagnosis:
    """Check this installation and machine; a missing package or device does not raise an error."""
    versions = {name: _version(name) for name in (*RUNTIME, *ENGINES, *EXPORT, *OPTIONAL)}
    machine, driver = this_machine(), query_driver()
    advice = []
    available: tuple[str, ...] = ()
    try:
        available = available_devices()
    except (ProviderError, ResourceError) as error:
        advice.append(str(error))
    unusable = _test_gpus(available, len(driver.gpus))
    devices = tuple(name for name in _device_names(available, len(driver.gpus)) if name not in unusable)
    if all(versions[name] for name in ENGINES):
        advice.append(
            "onnxruntime and onnxruntime-gpu cannot be installed together, both provide the module "
            "`onnxruntime`: run `pip uninstall onnxruntime onnxruntime-gpu`, then install one of them"
        )
    if available and "cuda" not in available:
        advice.append(f"for an NVIDIA GPU: `{INSTALL}` in an environment without onnxruntime")
    missing = [name for name in EXPORT if not versions[name]]
    if missing:
        engine = "gpu" if versions["onnxruntime-gpu"] else "cpu"
        advice.append(
            f"for `export`: `pip install 'paligemma-onnx[{engine},export]'` (missing: {', '.join(missing)})"
        )
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        devices=devices,
        gpus=driver.gpus,
        driver=driver.cuda,
        unusable=unusable,
        telemetry_disabled=telemetry_is_disabled(),
        threads=machine.threads,
        memory_bytes=machine.memory_bytes,
        advice=tuple(advice),
    )


def table(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as lines of text."""
    memory = diagnosis.memory_bytes
    lines = [
        f"{'python':<18} {diagnosis.python} on {diagnosis.system}",
        *(f"{name:<18} {installed or '-'}" for name, installed in diagnosis.versions.items()),
        f"{'devices':<18} {', '.join(diagnosis.devices) or 'none'}",
        *(f"{name:<18} {reason}" for name, reason in diagnosis.unusable.items()),
        *(
            f"{f'gpu {index}':<18} {gpu.name}, {gpu.memory_bytes / GIB:.1f} GiB, "
            f"compute capability {_dotted(gpu.compute)}"
            for index, gpu in enumerate(diagnosis.gpus)
        ),
        *([f"{'nvidia driver':<18} for CUDA {_dotted(diagnosis.driver)}"] if diagnosis.driver else []),
        f"{'telemetry':<18} {'off' if diagnosis.telemetry_disabled else 'on'} ({TELEMETRY_VARIABLE}"
        f"={os.environ.get(TELEMETRY_VARIABLE, '')})",
        f"{'threads':<18} {diagnosis.threads}",
        f"{'memory':<18} {f'{memory / GIB:.1f} GiB' if memory else 'unknown'}",
    ]
    if diagnosis.advice:
        lines += ["", *(f"* {line}" for line in diagnosis.advice)]
    return "\n".join(map(printable, lines))


def _device_names(available: tuple[str, ...], gpus: int) -> Iterator[str]:
    """Yield the names of the devices for `--device`. Several GPUs have the names cuda, cuda:1, cuda:2, ..."""
    for device in available:
        yield device
        if device == "cuda":
            yield from (f"cuda:{index}" for index in range(1, gpus))


def _test_gpus(available: tuple[str, ...], gpus: int) -> dict[str, str]:
    """Start CUDA on each GPU; return the names of the devices on which CUDA fails, with the error."""
    unusable = {}
    for name in _device_names(available, gpus):
        if name == "cpu":
            continue
        try:
            cuda.start(import_onnxruntime(), parse_device(name)[1])
        except PaliGemmaError as error:
            unusable[name] = str(error)
    return unusable


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""What is installed here, what is missing, and how to get it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ..engine import cuda_provider as cuda
from ..engine.devices import available_devices, parse_device
from ..engine.nvidia_driver import Gpu, this_driver
from ..engine.ort import import_onnxruntime
from ..errors import PaliGemmaError, ProviderError, ResourceError
from .machine import this_machine

RUNTIME = ("paligemma-onnx", "numpy", "pillow", "tokenizers", "click", "dacite")
ENGINES = ("onnxruntime", "onnxruntime-gpu")
EXPORT = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors")
OPTIONAL = ("transformers", "huggingface_hub", "pyarrow", "ray")
GIB = 1 << 30  # bytes


@dataclass(frozen=True)
class Diagnosis:
    """The state of this installation."""

    python: str
    system: str
    versions: dict[str, str | None]  # None: not installed
    devices: tuple[str, ...]  # that a bundle can run on
    gpus: tuple[Gpu, ...]  # that NVIDIA's driver has to offer
    driver: tuple[int, int] | None  # the newest CUDA that it runs; None: there is none
    unusable: dict[str, str]  # devices that the engine has and cannot use, with the reason
    threads: int
    memory_bytes: int | None
    advice: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether a bundle can be run."""
        return bool(self.devices)


def diagnose() -> Diagnosis:
    """Look around; never raises for what is missing."""
    versions = {name: _version(name) for name in (*RUNTIME, *ENGINES, *EXPORT, *OPTIONAL)}
    machine, driver = this_machine(), this_driver()
    advice = []
    present: tuple[str, ...] = ()
    try:
        present = available_devices()
    except (ProviderError, ResourceError) as error:
        advice.append(str(error))
    unusable = _unusable(present, len(driver.gpus))
    devices = tuple(name for name in _named(present, len(driver.gpus)) if name not in unusable)
    if all(versions[name] for name in ENGINES):
        advice.append(
            "onnxruntime and onnxruntime-gpu share an import name: "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then install one of them"
        )
    if present and "cuda" not in present:
        advice.append(f"for an NVIDIA GPU: `{cuda.INSTALL}` in an environment without onnxruntime")
    missing = [name for name in EXPORT if not versions[name]]
    if missing:
        engine = "gpu" if versions["onnxruntime-gpu"] else "cpu"
        advice.append(
            f"to export: `pip install 'paligemma-onnx[{engine},export]'` (missing: {', '.join(missing)})"
        )
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        devices=devices,
        gpus=driver.gpus,
        driver=driver.cuda,
        unusable=unusable,
        threads=machine.threads,
        memory_bytes=machine.memory_bytes,
        advice=tuple(advice),
    )


def table(diagnosis: Diagnosis) -> str:
    """For a person."""
    memory = diagnosis.memory_bytes
    lines = [
        f"{'python':<18} {diagnosis.python} on {diagnosis.system}",
        *(f"{name:<18} {found or '-'}" for name, found in diagnosis.versions.items()),
        f"{'devices':<18} {', '.join(diagnosis.devices) or 'none'}",
        *(f"{name:<18} {why}" for name, why in diagnosis.unusable.items()),
        *(
            f"{f'gpu {index}':<18} {gpu.name}, {gpu.memory_bytes / GIB:.1f} GiB, "
            f"compute capability {_dotted(gpu.compute)}"
            for index, gpu in enumerate(diagnosis.gpus)
        ),
        *([f"{'nvidia driver':<18} for CUDA {_dotted(diagnosis.driver)}"] if diagnosis.driver else []),
        f"{'threads':<18} {diagnosis.threads}",
        f"{'memory':<18} {f'{memory / GIB:.1f} GiB' if memory else 'unknown'}",
    ]
    if diagnosis.advice:
        lines += ["", *(f"* {line}" for line in diagnosis.advice)]
    return "\n".join(lines)


def _named(present: tuple[str, ...], gpus: int) -> Iterator[str]:
    """Devices by the names that `--device` takes, each GPU by its own where there are several."""
    for device in present:
        yield device
        if device == "cuda":
            yield from (f"cuda:{index}" for index in range(1, gpus))


def _unusable(present: tuple[str, ...], gpus: int) -> dict[str, str]:
    """Whether CUDA starts on each GPU is tried."""
    found = {}
    for name in _named(present, gpus):
        if name == "cpu":
            continue
        try:
            cuda.start(import_onnxruntime(), parse_device(name)[1])
        except PaliGemmaError as error:
            found[name] = str(error)
    return found


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

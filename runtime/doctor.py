"""What is installed here, what is missing, and how to get it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .errors import ProviderError, ResourceError
from .machine import this_machine
from .session import available_devices

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
    devices: tuple[str, ...]
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
    machine = this_machine()
    advice = []
    devices: tuple[str, ...] = ()
    try:
        devices = available_devices()
    except (ProviderError, ResourceError) as error:
        advice.append(str(error))
    if all(versions[name] for name in ENGINES):
        advice.append(
            "onnxruntime and onnxruntime-gpu share an import name: "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then install one of them"
        )
    if devices and "cuda" not in devices:
        advice.append(
            "for an NVIDIA GPU: `pip install 'paligemma-onnx[gpu]'` in an environment without onnxruntime"
        )
    missing = [name for name in EXPORT if not versions[name]]
    if missing:
        advice.append(
            f"to export: `pip install 'paligemma-onnx[cpu,export]'` (missing: {', '.join(missing)})"
        )
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        devices=devices,
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
        f"{'threads':<18} {diagnosis.threads}",
        f"{'memory':<18} {f'{memory / GIB:.1f} GiB' if memory else 'unknown'}",
    ]
    if diagnosis.advice:
        lines += ["", *(f"* {line}" for line in diagnosis.advice)]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""The choice of a device, made before a session is opened, and messages about used-up memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paligemma_onnx.runtime import BundleError, OptionError, PaliGemma, ProviderError
from paligemma_onnx.runtime.engine import devices
from paligemma_onnx.runtime.engine.devices import Placement, available_threads, choose_placement, parse_device
from paligemma_onnx.runtime.resource_errors import resource_problem

BOTH, GPU, CPU = ("cpu", "cuda"), ("cuda",), ("cpu",)


@pytest.fixture
def set_devices(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """Return a function that makes onnxruntime look as if it were built for the given devices."""
    return lambda available: monkeypatch.setattr(devices, "available_devices", lambda: available)


@pytest.mark.parametrize(
    ("device", "available", "runs_on", "expected"),
    [
        ("auto", BOTH, BOTH, Placement("cuda", 2, 0, 9)),
        ("auto", CPU, BOTH, Placement("cpu", 2)),
        ("auto", BOTH, CPU, Placement("cpu", 2)),
        ("auto", BOTH, GPU, Placement("cuda", 2, 0, 9)),
        ("cuda", BOTH, BOTH, Placement("cuda", 2, 0, 9)),
        ("cuda:0", BOTH, BOTH, Placement("cuda", 2, 0, 9)),
        ("cuda:12", BOTH, GPU, Placement("cuda", 2, 12, 9)),
    ],
)
def test_placed(
    set_devices: Callable[[tuple[str, ...]], None],
    device: str,
    available: tuple[str, ...],
    runs_on: tuple[str, ...],
    expected: Placement,
) -> None:
    set_devices(available)
    assert choose_placement(device, 2, runs_on=runs_on, memory_limit=9) == expected
    assert parse_device(expected.name) == (expected.device, expected.index)


@pytest.mark.parametrize(
    ("device", "available", "runs_on", "error", "words"),
    [
        ("cuda", BOTH, CPU, BundleError, "runs on cpu, not on cuda; export again with --precision bf16"),
        ("cuda:1", CPU, CPU, BundleError, "export again with --precision bf16"),
        ("cpu", BOTH, GPU, BundleError, "not on cpu; export again with --precision fp32, int8 or int4"),
        ("auto", CPU, GPU, ProviderError, "device 'cuda' is not available here, only: cpu"),
        ("cuda", CPU, BOTH, ProviderError, r"`pip install 'paligemma-onnx\[gpu,cuda\]'`"),
        ("cuda:x", BOTH, BOTH, OptionError, "device is 'cuda:x', expected auto, cpu, cuda or cuda:N"),
        ("cuda:-1", BOTH, BOTH, OptionError, "device is 'cuda:-1'"),
        ("cuda:٣", BOTH, BOTH, OptionError, "device is"),
        ("CUDA", BOTH, BOTH, OptionError, "device is 'CUDA'"),
        (None, BOTH, BOTH, OptionError, "device is None"),
    ],
)
def test_refused(
    set_devices: Callable[[tuple[str, ...]], None],
    device: str,
    available: tuple[str, ...],
    runs_on: tuple[str, ...],
    error: type[Exception],
    words: str,
) -> None:
    set_devices(available)
    with pytest.raises(error, match=words):
        choose_placement(device, None, runs_on=runs_on)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "12GiB"])
def test_limits_that_are_none(bundle: Callable[[str], Path], limit: int) -> None:
    with pytest.raises(OptionError, match=r"memory_limit is .*, expected a number of bytes over 0"):
        PaliGemma.load(bundle("gemma_one_kv_head"), device="cpu", memory_limit=limit)


def test_all_threads_by_default() -> None:
    assert choose_placement("cpu", None) == Placement("cpu", available_threads())


ARENA = "Failed to allocate memory for requested buffer of size 4294967296"
LIMITED = "Available memory of 4271360 is smaller than requested bytes of 9633792"


@pytest.mark.parametrize(
    ("error", "device", "words"),
    [
        (
            RuntimeError(ARENA),
            "cuda",
            "out of GPU memory (4,295.0 MB more are needed); process less",
        ),
        (RuntimeError(ARENA), "cpu", "out of memory (4,295.0 MB more are needed); close other programs"),
        (RuntimeError("CUDA error cudaErrorMemoryAllocation:out of memory"), "cuda", "out of GPU memory;"),
        (RuntimeError(LIMITED), "cuda", "out of the GPU memory that is allowed (9.6 MB more are needed)"),
        (
            MemoryError("Unable to allocate 3.20 GiB for an array with shape (9,)"),
            "cuda",
            "out of memory (3.20",
        ),
    ],
)
def test_whose_memory_ran_out(error: Exception, device: str, words: str) -> None:
    problem = resource_problem(error, device=device)
    assert problem is not None
    assert problem.startswith(words)


def test_a_limit_of_a_gpu_is_none_of_the_cpu(set_devices: Callable[[tuple[str, ...]], None]) -> None:
    set_devices(BOTH)
    assert choose_placement("cpu", 2) == Placement("cpu", 2)
    with pytest.raises(OptionError, match=r"memory_limit .* limits GPU memory, and device is 'cpu'"):
        choose_placement("cpu", 2, memory_limit=9)

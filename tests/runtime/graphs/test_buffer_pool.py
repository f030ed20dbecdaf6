"""The buffer pool and the requests that use it: a GPU's buffers and bindings, run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from emulated_half import open_on_cpu
from paths import SCENE
from scripted_runner import scripted_model

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.cancellation import Cancelled
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import NumericsError, ResourceError
from paligemma_onnx.runtime.graphs import buffer_pool
from paligemma_onnx.runtime.graphs.buffer_pool import (
    MAX_CAPTURED,
    MAX_IDLE,
    MIN_SLOTS,
    NO_CAPTURE,
    BufferPool,
)
from paligemma_onnx.runtime.graphs.kv_cache import StepBuffers
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

CPU = choose_placement("cpu", 1)


@pytest.fixture(scope="module")
def model(cuda_bundle: Callable[[str, str], Path]) -> PaliGemma:
    return open_on_cpu(cuda_bundle("gemma2_window", "bf16"))


@pytest.fixture
def pool(model: PaliGemma) -> BufferPool:
    """A pool for a context of 3,000 slots, with bindings that do nothing."""
    binding = SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)
    facts = SimpleNamespace(
        cache=model.manifest.cache,
        graphs=model.manifest.graphs,
        model=SimpleNamespace(context_length=3000, vocab_size=8),
    )
    return BufferPool(cast("Any", facts), CPU, lambda: cast("Any", binding))


def runner_of(model: PaliGemma) -> OnnxModelRunner:
    return cast("OnnxModelRunner", model.runner)


def idle(model: PaliGemma) -> tuple[StepBuffers, ...]:
    pool = runner_of(model).buffer_pool
    assert pool is not None
    return pool.idle


def test_sizes_are_few(pool: BufferPool) -> None:
    sizes = ((1, MIN_SLOTS), (512, 512), (513, 1024), (2048, 2048), (2049, 3000), (3000, 3000))
    for slots, expected in sizes:
        assert pool.acquire(2, slots).size == (2, expected)


def test_released_buffers_are_reused(pool: BufferPool) -> None:
    first = pool.acquire(1, 600)
    assert pool.acquire(1, 600) is not first  # it is in use
    pool.release(first)
    assert pool.acquire(2, 600) is not first  # of another size
    assert pool.acquire(1, 1024) is first


def test_pool_keeps_at_most_max_idle(pool: BufferPool) -> None:
    acquired = [pool.acquire(1, 600) for _ in range(MAX_IDLE + 2)]
    for buffers in acquired:
        pool.release(buffers)
    reused = [pool.acquire(1, 600) for _ in range(MAX_IDLE)]
    assert reused == acquired[: -MAX_IDLE - 1 : -1]  # the most recently used first
    assert pool.acquire(1, 600) not in acquired


def test_graph_ids_are_unique(pool: BufferPool) -> None:
    """A CUDA graph contains the addresses of its buffers; beyond MAX_CAPTURED, steps are not captured."""
    ids = [pool.acquire(1, 600).graph_id for _ in range(MAX_CAPTURED + 3)]
    assert len(set(ids[:MAX_CAPTURED])) == MAX_CAPTURED
    assert set(ids[MAX_CAPTURED:]) == {NO_CAPTURE}


def test_idle_buffers_are_freed_if_memory_is_short(pool: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = pool.acquire(1, 600)
    pool.release(buffers)
    idle_counts = []

    def allocate(*_: object) -> tuple[DeviceTensor, ...]:
        idle_counts.append(len(pool.idle))
        if pool.idle:
            raise ResourceError("a cache: out of GPU memory")
        return buffers.values

    monkeypatch.setattr(buffer_pool, "allocate_cache", allocate)
    assert pool.acquire(1, 2000).values is buffers.values
    assert idle_counts == [1, 0]


def test_allocation_failure_is_reported(pool: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object) -> tuple[DeviceTensor, ...]:
        raise ResourceError("a cache: out of GPU memory")

    monkeypatch.setattr(buffer_pool, "allocate_cache", allocate)
    with pytest.raises(ResourceError, match="out of GPU memory"):
        pool.acquire(1, 600)


def test_an_abandoned_request_may_end_during_acquire(
    pool: BufferPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may end it in the thread that acquires: `release` must not wait for the lock."""
    abandoned = pool.acquire(1, 600)
    allocate_cache = buffer_pool.allocate_cache

    def allocate(*arguments: Any) -> tuple[DeviceTensor, ...]:
        pool.release(abandoned)
        return allocate_cache(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(buffer_pool, "allocate_cache", allocate)
        pool.acquire(1, 2000)
    assert pool.acquire(1, 600) is abandoned


def test_requests_share_buffers(model: PaliGemma) -> None:
    first = model.generate(SCENE, "caption en", max_new_tokens=6)
    (buffers,) = idle(model)
    again = model.generate(SCENE, "caption en", max_new_tokens=6)
    assert again.token_ids == first.token_ids
    assert idle(model) == (buffers,)


def test_an_abandoned_or_cancelled_request_releases_its_buffers(model: PaliGemma) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (buffers,) = idle(model)
    stream = iter(model.stream(SCENE, "caption en", max_new_tokens=6))
    next(stream)
    assert idle(model) == ()
    cast("Any", stream).close()
    assert idle(model) == (buffers,)
    cancel = Cancellation()
    for _ in model.stream(SCENE, "caption en", max_new_tokens=6, cancel=cancel):
        cancel.cancel()
    assert idle(model) == (buffers,)


def test_a_cancelled_prefill_releases_its_buffers(model: PaliGemma) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (buffers,) = idle(model)
    features = np.zeros((1, model.manifest.image.tokens, model.manifest.model.hidden_size), np.float32)
    ids, cancel = np.array([[2, 5]]), Cancellation()
    cancel.cancel()
    with pytest.raises(Cancelled):
        runner_of(model).prefill(ids, features, np.array([2]), buffers.size[1], cancel)
    assert idle(model) == (buffers,)


def test_memory_that_may_hold_nan_is_freed(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked slots are multiplied with zero, but 0 * NaN is NaN: the next request would fail, too."""
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (buffers,) = idle(model)
    decode = OnnxModelRunner.decode

    def decode_to_nan(self: OnnxModelRunner, *arguments: Any) -> Any:
        logits, cache = decode(self, *arguments)
        return logits * np.nan, cache

    with monkeypatch.context() as patch:
        patch.setattr(OnnxModelRunner, "decode", decode_to_nan)
        with pytest.raises(NumericsError):
            model.generate(SCENE, "caption en", max_new_tokens=6)
    assert idle(model) == ()
    model.generate(SCENE, "caption en", max_new_tokens=2)
    assert idle(model) != (buffers,)


def test_the_loop_says_how_a_request_ended(model: PaliGemma) -> None:
    complete = scripted_model(model, [5, 6, -1])
    complete.generate(SCENE, "caption en")
    assert cast("Any", complete.runner).released is True
    nan = np.full(model.manifest.model.vocab_size, np.nan, np.float32)
    failed = scripted_model(model, [5, nan])
    with pytest.raises(NumericsError):
        failed.generate(SCENE, "caption en")
    assert cast("Any", failed.runner).released is False


def test_a_full_row_is_refused(model: PaliGemma) -> None:
    """A step after the last slot would write into memory of something else."""
    buffers = BufferPool(model.manifest, CPU, runner_of(model).decode_session.io_binding).acquire(2, 10)
    with pytest.raises(ValueError, match="has used all of its 512 slots"):
        buffers.write_inputs(np.array([[1], [1]]), np.array([3, 512]))


def test_idle_buffers_are_freed_for_image_features(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    assert idle(model)
    empty, idle_counts = DeviceTensor.empty, []

    def allocate(*arguments: Any) -> DeviceTensor:
        idle_counts.append(len(idle(model)))
        if idle(model):
            raise ResourceError("image features: out of GPU memory")
        return empty(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DeviceTensor, "empty", allocate)
        model.generate(SCENE, "caption en", max_new_tokens=2)
    assert idle_counts[0] > idle_counts[1] == 0

"""Memory that stays for the next request: taken, given back, let go; on a CPU, with the bindings of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from emulated_half import open_on_cpu
from paths import SCENE
from scripted_runner import scripted_model

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.bundle.tensor_table import StoredTensor
from paligemma_onnx.runtime.cancellation import Cancelled
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.gather_features import GATHER, open_gather
from paligemma_onnx.runtime.engine.memory import INT64_BYTES, MAX_ALLOCATION_BYTES, allocate
from paligemma_onnx.runtime.engine.shared_weights import split_into_pieces
from paligemma_onnx.runtime.errors import NumericsError, ResourceError
from paligemma_onnx.runtime.graphs import buffer_pool as room_module
from paligemma_onnx.runtime.graphs.buffer_pool import (
    MAX_CAPTURED,
    MAX_IDLE,
    MIN_SLOTS,
    NO_CAPTURE,
    BufferPool,
)
from paligemma_onnx.runtime.graphs.kv_cache import StepBuffers
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

HERE = choose_placement("cpu", 1)


@pytest.fixture(scope="module")
def model(cuda_bundle: Callable[[str, str], Path]) -> PaliGemma:
    return open_on_cpu(cuda_bundle("gemma2_window", "bf16"))


@pytest.fixture
def rooms(model: PaliGemma) -> BufferPool:
    """Rooms of a context of 3,000 slots, whose bindings bind nothing."""
    nothing = SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)
    facts = SimpleNamespace(
        cache=model.manifest.cache,
        graphs=model.manifest.graphs,
        model=SimpleNamespace(context_length=3000, vocab_size=8),
    )
    return BufferPool(cast("Any", facts), HERE, lambda: nothing)


def runner_of(model: PaliGemma) -> OnnxModelRunner:
    return cast("OnnxModelRunner", model.runner)


def idle(model: PaliGemma) -> list[StepBuffers]:
    rooms = runner_of(model).rooms
    assert rooms is not None
    return rooms._idle


def test_sizes_are_few(rooms: BufferPool) -> None:
    for slots, given in ((1, MIN_SLOTS), (512, 512), (513, 1024), (2048, 2048), (2049, 3000), (3000, 3000)):
        assert rooms.take(2, slots).size == (2, given)


def test_a_room_is_taken_again(rooms: BufferPool) -> None:
    first = rooms.take(1, 600)
    assert rooms.take(1, 600) is not first  # it is in use
    rooms.give(first)
    assert rooms.take(2, 600) is not first  # of another size
    assert rooms.take(1, 1024) is first


def test_few_wait(rooms: BufferPool) -> None:
    taken = [rooms.take(1, 600) for _ in range(MAX_IDLE + 2)]
    for room in taken:
        rooms.give(room)
    again = [rooms.take(1, 600) for _ in range(MAX_IDLE)]
    assert again == taken[: -MAX_IDLE - 1 : -1]  # the one used last first
    assert rooms.take(1, 600) not in taken


def test_recordings_are_never_two_rooms(rooms: BufferPool) -> None:
    """What is recorded has addresses of its room; beyond a number of them, steps are not recorded."""
    names = [rooms.take(1, 600).recording for _ in range(MAX_CAPTURED + 3)]
    assert len(set(names[:MAX_CAPTURED])) == MAX_CAPTURED
    assert set(names[MAX_CAPTURED:]) == {NO_CAPTURE}


def test_waiting_rooms_go_where_memory_is_short(rooms: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = rooms.take(1, 600)
    rooms.give(waiting)
    tried = []

    def short(*_: object) -> tuple[DeviceTensor, ...]:
        tried.append(len(rooms._idle))
        if rooms._idle:
            raise ResourceError("a cache: out of GPU memory")
        return waiting.values

    monkeypatch.setattr(room_module, "allocate_cache", short)
    assert rooms.take(1, 2000).values is waiting.values
    assert tried == [1, 0]


def test_what_cannot_be_had_is_said(rooms: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> tuple[DeviceTensor, ...]:
        raise ResourceError("a cache: out of GPU memory")

    monkeypatch.setattr(room_module, "allocate_cache", short)
    with pytest.raises(ResourceError, match="out of GPU memory"):
        rooms.take(1, 600)


def test_requests_share_a_room(model: PaliGemma) -> None:
    first = model.generate(SCENE, "caption en", max_new_tokens=6)
    (room,) = idle(model)
    again = model.generate(SCENE, "caption en", max_new_tokens=6)
    assert again.token_ids == first.token_ids
    assert idle(model) == [room]


def test_a_request_that_is_given_up_gives_its_room_back(model: PaliGemma) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (room,) = idle(model)
    stream = iter(model.stream(SCENE, "caption en", max_new_tokens=6))
    next(stream)
    assert idle(model) == []
    cast("Any", stream).close()
    assert idle(model) == [room]
    cancel = Cancellation()
    for _ in model.stream(SCENE, "caption en", max_new_tokens=6, cancel=cancel):
        cancel.cancel()
    assert idle(model) == [room]


def test_memory_that_may_hold_nan_is_let_go(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero times NaN is NaN, so the next request would have it, too."""
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (room,) = idle(model)
    decode = OnnxModelRunner.decode

    def broken(self: OnnxModelRunner, *arguments: Any) -> Any:
        logits, cache = decode(self, *arguments)
        return logits * np.nan, cache

    with monkeypatch.context() as patch:
        patch.setattr(OnnxModelRunner, "decode", broken)
        with pytest.raises(NumericsError):
            model.generate(SCENE, "caption en", max_new_tokens=6)
    assert idle(model) == []
    model.generate(SCENE, "caption en", max_new_tokens=2)
    assert idle(model) != [room]


def test_the_loop_says_how_a_request_ended(model: PaliGemma) -> None:
    ended = scripted_model(model, [5, 6, -1])
    ended.generate(SCENE, "caption en")
    assert cast("Any", ended.runner).released is True
    nan = np.full(model.manifest.model.vocab_size, np.nan, np.float32)
    failed = scripted_model(model, [5, nan])
    with pytest.raises(NumericsError):
        failed.generate(SCENE, "caption en")
    assert cast("Any", failed.runner).released is False


def test_a_full_row_is_refused(model: PaliGemma) -> None:
    """A step beyond the memory would be written into someone else's."""
    room = BufferPool(model.manifest, HERE, runner_of(model).decode_session.io_binding).take(2, 10)
    with pytest.raises(ValueError, match="has used all of its 512 slots"):
        room.feed(np.array([[1], [1]]), np.array([3, 512]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
def test_a_tensor_is_what_was_put_in(dtype: Any) -> None:
    numbers = np.array([[1.5, -2, 0], [3, 65504, -0.25]])
    held = {
        "float32": numbers.astype(np.float32),
        "bfloat16": (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
        "float16": numbers.astype(np.float16),
        "int64": numbers.astype(np.int64),
    }[dtype]
    tensor = DeviceTensor.zeros((2, 3), dtype, HERE, "numbers")
    assert (tensor.numpy() == 0).all()
    tensor.put(held)
    right = numbers.astype(np.int64) if dtype == "int64" else numbers
    near = np.isclose(tensor.numpy(), right, rtol=2**-7 if dtype == "bfloat16" else 0)
    assert near.all()
    part = tensor.part(2, (2, 2))
    assert np.array_equal(part.numpy(), tensor.numpy().reshape(-1)[2:].reshape(2, 2))
    assert part.address == tensor.address + 2 * held.itemsize
    assert np.array_equal(np.asarray(tensor), tensor.numpy())


def test_gathering_is_numpy() -> None:
    """Rows of pictures, with several pictures and the same ones, in any order."""
    random = np.random.default_rng(0)
    features = random.normal(size=(4, 5, 6)).astype(np.float32)
    pictures = np.array([[3, 1], [1, 1], [0, 2]])
    session = open_gather(HERE)
    (rows,) = session.run(None, {"features": features, "pictures": pictures})
    assert np.array_equal(rows, features[pictures].reshape(3, 10, 6))


def test_graphs_of_our_own_are_what_they_are_said_to_be() -> None:
    operators = {
        GATHER.file: ["Concat", "Gather", "Reshape", "Shape", "Shape"],
        "zeros.onnx": ["ConstantOfShape"],
    }
    for name, expected in operators.items():
        model = onnx.load_from_string((files("paligemma_onnx.runtime.engine") / name).read_bytes())
        onnx.checker.check_model(model, full_check=True)
        assert sorted(node.op_type for node in model.graph.node) == expected


def test_an_abandoned_request_may_end_while_a_room_is_taken(rooms: BufferPool) -> None:
    """The garbage collector ends it in the thread that takes, wherever that is."""
    taken = rooms.take(1, 600)
    with rooms._lock:
        rooms.give(taken)
    assert rooms.take(1, 600) is taken


def test_a_prefill_that_is_cancelled_gives_its_room_back(
    model: PaliGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    (room,) = idle(model)

    def cancelled(*_: object, **__: object) -> Any:
        raise Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(OnnxModelRunner, "_write", cancelled)
        assert model.generate(SCENE, "caption en", max_new_tokens=2).finish_reason == "cancelled"
    assert idle(model) == [room]


def test_rooms_go_for_image_features(model: PaliGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    model.generate(SCENE, "caption en", max_new_tokens=2)
    assert idle(model)
    empty, tried = DeviceTensor.empty, []

    def short(*arguments: Any) -> DeviceTensor:
        tried.append(len(idle(model)))
        if idle(model):
            raise ResourceError("image features: out of GPU memory")
        return empty(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DeviceTensor, "empty", short)
        model.generate(SCENE, "caption en", max_new_tokens=2)
    assert tried[0] > tried[1] == 0


def test_large_files_come_in_pieces() -> None:
    """The kernel that makes memory counts in 32 bits."""
    assert MAX_ALLOCATION_BYTES // INT64_BYTES < 2**31
    with pytest.raises(ValueError, match="more than"):
        allocate(MAX_ALLOCATION_BYTES + 1, HERE)
    size = MAX_ALLOCATION_BYTES // 4
    tensors = [
        StoredTensor(str(at), "bfloat16", (size // 2,), "decoder.data", at * size, None) for at in range(10)
    ]
    groups = [[tensor.name for tensor in group] for group in split_into_pieces(tensors)]
    assert groups == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]

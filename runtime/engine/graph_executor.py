"""One run of a graph: what it reads and writes bound to memory, on the device, from the right thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import GraphSpec
from ..cancellation import Cancellation
from ..errors import BundleError, PaliGemmaError
from .cuda_provider import device_lock, to_public_error
from .device_tensor import DeviceTensor
from .devices import Placement
from .memory import SHRINK_ARENA_OPTION
from .ort import import_onnxruntime

GRAPH_ID_OPTION = "gpu_graph_id"  # onnxruntime's option of a run


class Executor:
    """Runs graphs of one bundle where they are."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._made: set[str] = set()  # recordings

    def run(
        self,
        session: Any,
        graph: GraphSpec,
        fed: Mapping[str, NDArray[Any]],
        bound: Mapping[str, Any],
        cancel: Cancellation,
        *,
        written: Mapping[str, DeviceTensor] = MappingProxyType({}),
        give_back: bool = False,
    ) -> tuple[Any, ...]:
        """Run a graph on arrays and bound values.

        Outputs go into the values of `written` where it names them; of the others the first comes to the CPU,
        and the rest into new values where the graph runs.
        With `give_back` a CPU's memory of the run's inner values returns to the system: attention over the
        4096 patches of an 896-pixel image takes gigabytes that decoding never needs again. A GPU computes
        that without them, and its memory takes long to give and to take.

        Raises:
            Cancelled: the switch was thrown.
            BundleError: the engine failed.
            ResourceError: out of memory.
        """
        binding, place = session.io_binding(), self._placement
        # Held by a name until the run ends: the binding reads their memory.
        arrays = {name: np.ascontiguousarray(array) for name, array in fed.items()}
        with self._told(graph, cancel):  # a GPU gets a copy here, for which it needs memory
            for name, array in arrays.items():
                binding.bind_cpu_input(name, array)
        for name, value in bound.items():
            if isinstance(value, DeviceTensor):
                value.bind_input(binding, name)
            else:
                binding.bind_ortvalue_input(name, value)
        for spec in graph.outputs:
            if spec.name in written:
                written[spec.name].bind_output(binding, spec.name)
            elif spec == graph.outputs[0]:
                binding.bind_output(spec.name, "cpu")
            else:
                binding.bind_output(spec.name, place.device, place.index)
        give_back = give_back and place.device == "cpu"
        self._execute(session, graph, binding, {SHRINK_ARENA_OPTION: "cpu:0"} if give_back else {}, cancel)
        return tuple(binding.get_outputs())

    def step(
        self, session: Any, graph: GraphSpec, binding: Any, recording: str, cancel: Cancellation
    ) -> None:
        """Run what is bound already; a GPU plays it back once it is recorded. Raises what `run` raises."""
        entries = {} if self._placement.device == "cpu" else {GRAPH_ID_OPTION: recording}
        cancel.check()
        # A recording that was broken off would spoil all later ones: it is waited for.
        self._execute(session, graph, binding, entries, cancel if recording in self._made else Cancellation())
        self._made.add(recording)

    def _execute(
        self, session: Any, graph: GraphSpec, binding: Any, entries: Mapping[str, str], cancel: Cancellation
    ) -> None:
        options = import_onnxruntime().RunOptions()
        for key, value in entries.items():
            options.add_run_config_entry(key, value)
        with self._told(graph, cancel), cancel.watching(options):
            if self._placement.device == "cpu":
                session.run_with_iobinding(binding, options)
            else:
                self._wait(self._lane.submit(session.run_with_iobinding, binding, options), entries, options)

    def _wait(self, run: Future[None], entries: Mapping[str, str], options: Any) -> None:
        """Until the run has ended, whatever happens to this thread: the device is not to be left half-way."""
        try:
            run.result()
        except BaseException:  # what the run raised, or Ctrl-C here
            if entries.get(GRAPH_ID_OPTION) is None or entries[GRAPH_ID_OPTION] in self._made:
                options.terminate = True
            wait([run])
            raise

    @contextmanager
    def _told(self, graph: GraphSpec, cancel: Cancellation) -> Iterator[None]:
        """Have the device alone; raise what `run` raises in place of the engine's errors."""
        try:
            with device_lock(self._placement.device):
                yield
        except PaliGemmaError:
            raise
        except Exception as error:  # the engine has no common base for what it raises
            cancel.check()
            raise to_public_error(error, graph.file, self._placement.device) or BundleError(
                f"{graph.file}: the engine failed in it ({type(error).__name__}); run `paligemma-onnx verify`"
            ) from error

    @cached_property
    def _lane(self) -> ThreadPoolExecutor:
        """The one thread that tells a GPU what to do: a recording is known to the thread that made it."""
        return ThreadPoolExecutor(1, thread_name_prefix="paligemma-onnx-cuda")

"""Run graphs: bind inputs and outputs to device memory, and submit the run to onnxruntime."""

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
from .fork import check_process
from .memory import SHRINK_ARENA_OPTION
from .ort import IoBinding, OrtValue, RunOptions, Session, import_onnxruntime

GRAPH_ID_OPTION = "gpu_graph_id"  # onnxruntime run option


class Executor:
    """Runs the graphs of one bundle on the bundle's device."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._captured: set[str] = set()  # ids of CUDA graphs

    def run(
        self,
        session: Session,
        graph: GraphSpec,
        feeds: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, DeviceTensor],
        cancel: Cancellation,
        *,
        outputs: Mapping[str, DeviceTensor] = MappingProxyType({}),
        shrink_arena: bool = False,
    ) -> tuple[OrtValue, ...]:
        """Run a graph and return its outputs.

        Args:
            session: session of the graph.
            graph: description of the graph.
            feeds: inputs on the CPU, by name.
            inputs: inputs on the device, by name.
            cancel: stops the run from another thread.
            outputs: tensors to write outputs into, by name. Of the outputs without a tensor here, the first
                is written to the CPU, and the others are written to new device memory.
            shrink_arena: whether to return the memory of intermediate values to the system after a run on a
                CPU. Attention over the 4096 patches of an 896-pixel image takes gigabytes that decoding does
                not need. On a GPU the argument has no effect: attention does not need that memory there, and
                a GPU takes long to free and to allocate memory.

        Returns:
            The outputs in the order in which the graph declares them.

        Raises:
            Cancelled: the run was cancelled.
            BundleError: onnxruntime failed.
            ProviderError: the GPU failed, or the session was opened before this process was forked.
            ResourceError: out of memory.
        """
        check_process(session)
        binding, placement = session.io_binding(), self._placement
        # The binding reads the memory of these arrays, so the variable must exist until the run has ended.
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        with self._translated_errors(graph, cancel):  # feeds are copied to a GPU, which may run out of memory
            for name, array in arrays.items():
                binding.bind_cpu_input(name, array)
        for name, tensor in inputs.items():
            tensor.bind_input(binding, name)
        for spec in graph.outputs:
            if spec.name in outputs:
                outputs[spec.name].bind_output(binding, spec.name)
            elif spec == graph.outputs[0]:
                binding.bind_output(spec.name, "cpu")
            else:
                binding.bind_output(spec.name, placement.device, placement.index)
        shrink_arena = shrink_arena and placement.device == "cpu"
        entries = {SHRINK_ARENA_OPTION: "cpu:0"} if shrink_arena else {}
        self._execute(session, graph, binding, entries, cancel)
        return tuple(binding.get_outputs())

    def step(
        self, session: Session, graph: GraphSpec, binding: IoBinding, graph_id: str, cancel: Cancellation
    ) -> None:
        """Run a graph on memory that is already bound. A GPU captures the first run and replays it later.

        Args:
            session: session of the graph.
            graph: description of the graph.
            binding: memory of the inputs and outputs.
            graph_id: id of the CUDA graph that belongs to this memory; no effect on a CPU.
            cancel: stops the run from another thread. It does not stop a capture, because an interrupted
                capture makes later captures fail.

        Raises what `run` raises.
        """
        check_process(session)
        entries = {} if self._placement.device == "cpu" else {GRAPH_ID_OPTION: graph_id}
        cancel.check()
        self._execute(
            session, graph, binding, entries, cancel if graph_id in self._captured else Cancellation()
        )
        self._captured.add(graph_id)

    def _execute(
        self,
        session: Session,
        graph: GraphSpec,
        binding: IoBinding,
        entries: Mapping[str, str],
        cancel: Cancellation,
    ) -> None:
        options: RunOptions = import_onnxruntime().RunOptions()
        for key, value in entries.items():
            options.add_run_config_entry(key, value)
        with self._translated_errors(graph, cancel), cancel.watching(options):
            if self._placement.device == "cpu":
                session.run_with_iobinding(binding, options)
            else:
                run = self._device_thread.submit(session.run_with_iobinding, binding, options)
                self._wait(run, entries, options)

    def _wait(self, run: Future[None], entries: Mapping[str, str], options: RunOptions) -> None:
        """Wait until a run has ended, even if this thread is interrupted: no GPU call may start earlier."""
        try:
            run.result()
        except BaseException:  # an exception of the run, or Ctrl-C in this thread
            if entries.get(GRAPH_ID_OPTION) is None or entries[GRAPH_ID_OPTION] in self._captured:
                options.terminate = True
            wait([run])
            raise

    @contextmanager
    def _translated_errors(self, graph: GraphSpec, cancel: Cancellation) -> Iterator[None]:
        """Lock the device, and translate onnxruntime's exceptions to those that `run` documents."""
        try:
            with device_lock(self._placement.device):
                yield
        except PaliGemmaError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base class
            cancel.check()
            raise to_public_error(error, graph.file, self._placement.device) or BundleError(
                f"{graph.file}: onnxruntime failed to run it ({type(error).__name__}); "
                "run `paligemma-onnx verify`"
            ) from error

    @cached_property
    def _device_thread(self) -> ThreadPoolExecutor:
        """Executor of the only thread that submits runs to a GPU.

        One thread is required because a CUDA graph belongs to the thread that captured it.
        """
        return ThreadPoolExecutor(1, thread_name_prefix="paligemma-onnx-cuda")

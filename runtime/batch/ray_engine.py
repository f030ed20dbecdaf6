"""The same work over a Ray cluster: numbers of parts go out, files are written, counts come back.

Nothing but numbers goes through Ray: a worker reads the input and writes the part itself, so both must be on
a file system that all machines see. A part whose worker dies is given to another one, which goes on where
the file ends. Ray stays the user's: a cluster is joined and left, never started or stopped.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from filelock import FileLock

from .. import errors
from ..bundle.manifest import read_manifest
from ..engine.devices import choose_placement
from ..errors import PaliGemmaError, ProviderError
from ..paligemma import PaliGemma
from ..resource_errors import translate_resource_errors
from .output_parts import Count
from .shard_runner import Callbacks, Parts, ShardJob, run_part

# Seconds a worker waits for the file of a part: for the system to end the lock of one that died.
PATIENCE = 120.0
ANSWERS_WITHIN = 10.0  # seconds, a cluster that is there
LONGEST = 500  # characters of an error of Ray's, the last of which say what it is


class PartWriter:
    """A worker: opens the bundle once, then writes the parts it is given the numbers of."""

    def __init__(self, work: ShardJob) -> None:
        self._work = work
        self._parts = Parts(work)

    @cached_property
    def _model(self) -> PaliGemma:
        """Opened behind the first number: what is wrong with it can then be told."""
        return self._work.open()

    def __call__(self, batch: Mapping[str, Iterable[int]]) -> dict[str, list[int] | list[str]]:
        """Write a part.

        Returns:
            A row of its rows and errors, and class and message of the error that ends the run, if one does:
            of one that is raised Ray loses the class.
        """
        (number,) = batch["number"]
        part = self._work.part(int(number))
        try:
            with (
                translate_resource_errors(str(part.folder)),
                FileLock(part.folder / f".{part.name}.lock", timeout=PATIENCE),
            ):
                watch = Callbacks(passed=_ignored, answered=_ignored, stopped=lambda: False)
                run_part(part, self._parts.items(part.number), self._model, self._work.asking, watch)
                found = part.finished() or Count()
        except PaliGemmaError as error:
            return _result(Count(), type(error).__name__, str(error))
        return _result(found)


def _result(count: Count, kind: str = "", message: str = "") -> dict[str, list[int] | list[str]]:
    return {"rows": [count.rows], "errors": [count.errors], "kind": [kind], "message": [message]}


def run_shard_on_ray(
    work: ShardJob, rows: int, *, watch: Callbacks, address: str, workers: int | None
) -> None:
    """Have a cluster write what is missing of the only shard.

    Args:
        work: what to do; its paths are the same on all machines.
        rows: how many items there are.
        watch: told of a part when it is complete.
        address: of the cluster, `auto` for the one of this machine.
        workers: processes that answer at a time; None starts one a machine.

    Raises:
        ProviderError: Ray is not installed, or there is no cluster.
        BundleError, OptionError: as `do_shard`.
    """
    missing = list(_missing(work, rows, watch))
    if not missing:
        return
    ray = _joined(address)
    try:
        for found in _counts(ray, work, missing, workers or _machines(ray)):
            watch.answered(found)
            if watch.stopped():
                return
    except ray.exceptions.RayError as error:
        raise ProviderError(f"Ray: {' '.join(str(error).split())[-LONGEST:]}") from error
    finally:
        ray.shutdown()  # leaves the cluster; workers of ours end, their parts go on another time


def _missing(work: ShardJob, rows: int, watch: Callbacks) -> Iterator[int]:
    for number in range(math.ceil(rows / work.part_rows)):
        finished = work.part(number).finished()
        if finished is None:
            yield number
        else:
            watch.passed(finished)


def _joined(address: str) -> Any:
    try:
        import ray  # noqa: PLC0415
        import ray.data  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProviderError("--engine ray needs Ray: run `pip install 'paligemma-onnx[cpu,ray]'`") from error
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it calls what Ray Data does an error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise ProviderError(
            f"no Ray cluster at {address}; start one with `ray start --head`, or give its --ray-address"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray would try for ten minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN).close()


def _machines(ray: Any) -> int:
    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


def _counts(ray: Any, work: ShardJob, missing: list[int], workers: int) -> Iterator[Count]:
    """What the parts hold, as they are completed."""
    numbers = ray.data.from_items(
        [{"number": number} for number in missing], override_num_blocks=len(missing)
    )
    done = numbers.map_batches(
        PartWriter,
        fn_constructor_args=(work,),
        batch_size=1,
        # One part in hand, none in waiting: the last ones are spread, too.
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing)), max_tasks_in_flight_per_actor=1),
        num_cpus=work.threads or 1,
        num_gpus=1 if _wants_gpu(work) else 0,
    )
    for found in done.iter_rows():
        if found["kind"]:
            raise getattr(errors, found["kind"])(found["message"])
        yield Count(int(found["rows"]), int(found["errors"]))


def _wants_gpu(work: ShardJob) -> bool:
    """Whether workers are for GPUs: the device says so, or the bundle, or what `auto` finds here."""
    devices = read_manifest(work.bundle).precision.devices
    return choose_placement(work.device, None, runs_on=devices).device == "cuda"


def _ignored(_count: Count) -> None:
    """The driver is told when a part is complete."""

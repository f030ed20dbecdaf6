"""Run a shard on a Ray cluster: the driver sends part numbers, workers write files and return row counts.

Each worker reads the input and writes its parts, so the input and the output must be on a file system that
all machines share. If a worker dies, Ray gives its part to another worker, which resumes where the part file
ends. The driver connects to a running cluster and disconnects from it, but never starts or stops a cluster.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
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
from .shard_runner import PartItems, ShardJob, Steps, run_part
from .state_file import translate_output_errors

# Seconds that a worker waits for a part's lock: the system needs a moment to release a dead worker's lock.
LOCK_TIMEOUT = 120.0
CONNECT_TIMEOUT = 10.0  # seconds
MAX_ERROR_CHARACTERS = 500  # printed from the end of a Ray error, which names the cause


class PartWriter:
    """A Ray worker: loads the bundle once, then writes the parts whose numbers it receives."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._parts = PartItems(job)

    @cached_property
    def _model(self) -> PaliGemma:
        """Model of the bundle.

        The first call loads the model, not the constructor, so that the worker can return an error.
        """
        return self._job.open()

    def __call__(self, batch: Mapping[str, Iterable[int]]) -> dict[str, list[Any]]:
        """Write the part `batch["number"]`, a sequence of one number.

        Returns:
            One record with the fields of the part's `Count`. If an error ends the run, the record also has
            the class (`kind`) and the `message` of this error. The error is returned and not raised, because
            Ray does not keep the class of a raised error.
        """
        (number,) = batch["number"]
        part, written = self._job.part(int(number)), Count()
        kind = message = ""
        try:
            with (
                translate_output_errors(part.folder),
                translate_resource_errors(str(part.folder)),
                FileLock(part.folder / f".{part.name}.lock", timeout=LOCK_TIMEOUT),
            ):
                steps = run_part(part, self._parts.items(part.number), self._model, self._job.options)
                written = sum((count for count, _ in steps), written)
        except PaliGemmaError as error:
            kind, message = type(error).__name__, str(error)
        counts = {name: [number] for name, number in asdict(written).items()}
        return {**counts, "kind": [kind], "message": [message]}


def run_shard_on_ray(job: ShardJob, rows: int, *, address: str, workers: int | None) -> Steps:
    """Write the missing parts of a run on a Ray cluster. The run must have a single shard.

    Args:
        job: the shard to write. The paths of the job must be valid on all machines.
        rows: number of items.
        address: address of the cluster; `auto` finds the cluster on this machine.
        workers: number of worker processes; None means one worker per machine.

    Raises:
        ProviderError: Ray is not installed, or there is no cluster.
        BundleError, OptionError: as in `run_shard`.
    """
    missing = []
    for number in range(math.ceil(rows / job.part_rows)):
        if (finished := job.part(number).finished_count()) is None:
            missing.append(number)
        else:
            yield finished, False
    if not missing:
        return
    ray = _connect(address)
    try:
        for written in _write_parts(ray, job, missing, workers):
            yield written, True
    except ray.exceptions.RayError as error:
        message = " ".join(str(error).split())
        raise ProviderError(f"Ray: {message[-MAX_ERROR_CHARACTERS:]}") from error
    finally:
        ray.shutdown()  # disconnects and ends the workers; a later run continues their parts


def _connect(address: str) -> Any:
    """Connect to a cluster and return the module `ray`."""
    try:
        import ray  # noqa: PLC0415
        import ray.data  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProviderError("--engine ray needs Ray: run `pip install 'paligemma-onnx[cpu,ray]'`") from error
    # The Ray backend logs normal actions of Ray Data as errors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise ProviderError(
            f"no Ray cluster at {address}; start one with `ray start --head` or set --ray-address"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError if `host:port` does not accept connections.

    Without this check, ray.init would retry for ten minutes.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()


def _write_parts(ray: Any, job: ShardJob, missing: list[int], workers: int | None) -> Iterator[Count]:
    """Yield the row counts of the parts as workers complete them."""
    workers = workers or max(1, sum(bool(node["Alive"]) for node in ray.nodes()))
    # Workers need a GPU if this machine would select one for the device option and the bundle.
    placement = choose_placement(job.device, None, runs_on=read_manifest(job.bundle).precision.devices)
    numbers = ray.data.from_items(
        [{"number": number} for number in missing], override_num_blocks=len(missing)
    )
    records = numbers.map_batches(
        PartWriter,
        fn_constructor_args=(job,),
        batch_size=1,
        # Workers do not queue parts: otherwise some would idle while others have several of the last ones.
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing)), max_tasks_in_flight_per_actor=1),
        num_cpus=job.threads or 1,
        num_gpus=1 if placement.device == "cuda" else 0,
    )
    for record in records.iter_rows():
        if record["kind"]:
            raise getattr(errors, record["kind"])(record["message"])
        zeros = asdict(Count())
        yield Count(**{name: type(zero)(record[name]) for name, zero in zeros.items()})  # from NumPy scalars

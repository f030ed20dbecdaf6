"""The same work over a Ray cluster: numbers of parts go out, files are written, counts come back.

Nothing but numbers goes through Ray: a worker reads the input and writes the part itself, so both must be on
a file system that all machines see. A part whose worker dies is given to another one, which goes on where
the file ends. Ray stays the user's: a cluster is joined and left, never started or stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from filelock import FileLock

from ..errors import PaliGemmaError, ProviderError
from ..paligemma import PaliGemma
from .parts import Count
from .work import Parts, Watch, Work, do_part

# Seconds a worker waits for the file of a part: for the system to end the lock of one that died.
PATIENCE = 120.0


class PartWriter:
    """A worker: opens the bundle once, then writes the parts it is given the numbers of."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._model = PaliGemma.load(work.bundle, device=work.device, threads=work.threads)
        self._parts = Parts(work)

    def __call__(self, batch: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
        """Write a part; int64[1] in, int64[1] of rows and errors out."""
        (number,) = (int(number) for number in batch["number"])
        part = self._work.part(number)
        with FileLock(part.folder / f".{part.name}.lock", timeout=PATIENCE):
            watch = Watch(passed=_ignored, answered=_ignored, stopped=lambda: False)
            do_part(part, self._parts.items(number), self._model, self._work.asking, watch)
        found = part.finished() or Count()
        return {"rows": np.array([found.rows]), "errors": np.array([found.errors])}


def do_shard_on_ray(work: Work, rows: int, watch: Watch, *, address: str, workers: int | None) -> None:
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
    ray = _joined(address)
    try:
        if missing:
            for found in _counts(ray, work, missing, workers or _machines(ray)):
                watch.answered(found)
                if watch.stopped():
                    return
    except ray.exceptions.RayError as error:
        raise (_own_error(error) or ProviderError(f"Ray: {' '.join(str(error).split())[:500]}")) from error
    finally:
        ray.shutdown()  # leaves the cluster; workers of ours end, their parts go on another time


def _missing(work: Work, rows: int, watch: Watch) -> Iterator[int]:
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
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ProviderError(
            f"no Ray cluster at {address}; start one with `ray start --head`, or give its --ray-address"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _machines(ray: Any) -> int:
    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


def _counts(ray: Any, work: Work, missing: list[int], workers: int) -> Iterator[Count]:
    """What the parts hold, as they are completed."""
    numbers = ray.data.from_items(
        [{"number": number} for number in missing], override_num_blocks=len(missing)
    )
    done = numbers.map_batches(
        PartWriter,
        fn_constructor_args=(work,),
        batch_size=1,
        concurrency=min(workers, len(missing)),
        num_cpus=work.threads or 1,
        num_gpus=1 if work.device == "cuda" else 0,
        scheduling_strategy="SPREAD",
    )
    for found in done.iter_rows():
        yield Count(int(found["rows"]), int(found["errors"]))


def _own_error(error: BaseException) -> PaliGemmaError | None:
    """The error of ours that a worker met, from inside Ray's."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, PaliGemmaError):
        inner = getattr(inner, "cause", None) or inner.__cause__
    return inner


def _ignored(_count: Count) -> None:
    """The driver is told when a part is complete."""

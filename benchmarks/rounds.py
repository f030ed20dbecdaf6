"""Who is asked when: all by turns within every round, so that a busy machine is busy for all alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .exports import COMMAND
from .measured_process import Contender, ContenderFailed, Running, forget, how_it_ended
from .results import Prepared, Result

Say = Callable[[str], object]


def first_starts(contender: Contender, result: Result, log: Path) -> None:
    """Three fresh processes: one that reads the disk, one that need not, one whose memory is watched.

    Raises:
        ContenderFailed: it does not load or answer.
    """
    forget(contender.files)
    for _ in ("first", "second"):
        with Running(contender, log) as running:
            result.starts.append(running.start_s)
    with Running(contender, log, watched=True) as running:
        running.call("once")
        result.peak = running.peak()


def prepared_start(contender: Contender, result: Result, log: Path) -> None:
    """Prepare a bundle as its users do, start once more, and remove what was written: it is large.

    Raises:
        ContenderFailed: it cannot be prepared, or does not load or answer.
    """
    command = [sys.executable, "-c", COMMAND, "prepare", str(contender.bundle)]
    with log.open("ab") as errors:
        done = subprocess.run([*command, "--json"], check=False, stdout=subprocess.PIPE, stderr=errors)
        if done.returncode != 0:
            raise ContenderFailed(f"prepare: {how_it_ended(done.returncode)}")
        made = json.loads(done.stdout)
        try:
            with Running(contender, log):
                pass  # its files are read from the disk, as a bundle's are before a second start
            with Running(contender, log, watched=True) as running:
                running.call("once")
                peak = running.peak()
        finally:
            subprocess.run([*command, "--remove"], check=True, stdout=errors, stderr=errors)
    result.prepared = Prepared(made["seconds"], made["bytes"], running.start_s, peak)


def who_stays(needs: Mapping[str, int], room: int) -> frozenset[str]:
    """Names of the processes that are kept between rounds.

    The smallest stay, as long as there is room beside them for the largest of those that come and go.

    Args:
        needs: bytes of each.
        room: bytes for all together.
    """
    by_size = sorted(needs, key=needs.__getitem__)
    for count in range(len(by_size), -1, -1):
        kept, others = by_size[:count], by_size[count:]
        largest = max((needs[name] for name in others), default=0)
        if sum(needs[name] for name in kept) + largest <= room:
            return frozenset(kept)
    return frozenset()


def run_rounds(
    contenders: Sequence[Contender],
    results: Mapping[str, Result],
    *,
    rounds: int,
    batches: Sequence[int],
    pasts: Sequence[int],
    room: int,
    logs: Path,
    say: Say,
    finished: Callable[[], object],
) -> None:
    """Ask everyone once a round; who fails is left out from then on.

    Args:
        contenders: those that are asked, in this order.
        results: by name; receive the figures.
        rounds: how often.
        batches: pictures of a request, each asked about in every round.
        pasts: slots of cache behind which steps are timed.
        room: bytes that kept processes may have together.
        logs: folder of what they write on stderr.
        say: told what happens.
        finished: called after each round.
    """
    needs = {name: peak.proportional for name, result in results.items() if (peak := result.peak) is not None}
    staying = who_stays(needs, room)
    with ExitStack() as all_kept:
        kept: dict[str, Running] = {}
        for number in range(1, rounds + 1):
            for contender in contenders:
                name, result = contender.name, results[contender.name]
                if result.failure is not None:
                    continue
                say(f"round {number} of {rounds}: {name}")
                with ExitStack() as turn:
                    try:
                        running = kept.get(name)
                        if running is None:
                            owner = all_kept if name in staying else turn
                            running = owner.enter_context(Running(contender, logs / f"{name}.log"))
                            if name in staying:
                                kept[name] = running
                            running.call("once")
                        result.rounds.append(running.call("round", batches=batches, pasts=pasts))
                    except ContenderFailed as failed:
                        result.failure = str(failed)
                        say(f"{name}: {failed}")
            finished()

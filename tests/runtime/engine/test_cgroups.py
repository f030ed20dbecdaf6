"""Limits of control groups, read from a copy of /proc and /sys with the files of each version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from paligemma_onnx.runtime.engine import devices
from paligemma_onnx.runtime.engine.cgroups import cpu_limit, memory_limit

GROUP = "sys/fs/cgroup"
JOB = "slurm/uid_1000/job_7/step_0"
V1 = f"5:memory:/{JOB}\n4:cpu,cpuacct:/{JOB}\n1:name=systemd:/user.slice\n"


def system(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder, and return the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, None),
        ({f"{GROUP}/cpu.max": "max 100000\n"}, None),
        ({f"{GROUP}/cpu.max": "50000 100000\n"}, 1),
        ({f"{GROUP}/cpu.max": "150000 100000\n"}, 2),
        ({f"{GROUP}/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "150000 100000"}, 2),
        # the limit stands at the process's group, at a group above it, or at both
        ({"proc/self/cgroup": f"0::/{JOB}", f"{GROUP}/{JOB}/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": f"0::/{JOB}", f"{GROUP}/slurm/cpu.max": "50000 100000"}, 1),
        (
            {
                "proc/self/cgroup": f"0::/{JOB}",
                f"{GROUP}/{JOB}/cpu.max": "800000 100000",
                f"{GROUP}/slurm/uid_1000/cpu.max": "250000 100000",
                f"{GROUP}/slurm/cpu.max": "max 100000",
            },
            3,
        ),
        # a path on the host, or outside of the namespace: the mounted root is the container's group
        ({"proc/self/cgroup": "0::/docker/0a1b", f"{GROUP}/cpu.max": "50000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "0::/docker/0a1b/inner/job",
                f"{GROUP}/inner/job/cpu.max": "max 100000",
                f"{GROUP}/inner/cpu.max": "150000 100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/../other", f"{GROUP}/cpu.max": "150000 100000"}, 2),
        # version 1
        ({f"{GROUP}/cpu/cpu.cfs_quota_us": "-1", f"{GROUP}/cpu/cpu.cfs_period_us": "100000"}, None),
        ({f"{GROUP}/cpu/cpu.cfs_quota_us": "50000", f"{GROUP}/cpu/cpu.cfs_period_us": "100000"}, 1),
        (
            {
                "proc/self/cgroup": V1,
                f"{GROUP}/cpu,cpuacct/slurm/uid_1000/cpu.cfs_quota_us": "150000\n",
                f"{GROUP}/cpu,cpuacct/slurm/uid_1000/cpu.cfs_period_us": "100000\n",
                f"{GROUP}/cpu,cpuacct/{JOB}/cpu.cfs_quota_us": "-1\n",
                f"{GROUP}/cpu,cpuacct/{JOB}/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        # damaged files mean no limit
        ({f"{GROUP}/cpu.max": ""}, None),
        ({f"{GROUP}/cpu.max": "a b"}, None),
        ({f"{GROUP}/cpu.max": "0 0"}, None),
        ({"proc/self/cgroup": "garbage\n\n::", f"{GROUP}/cpu.max": "150000 100000"}, 2),
    ],
)
def test_cpu_limit(tmp_path: Path, files: dict[str, str], processors: int | None) -> None:
    assert cpu_limit(system(tmp_path, files)) == processors


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, None),
        ({f"{GROUP}/memory.max": "max\n"}, None),
        ({f"{GROUP}/memory.max": "1073741824\n"}, 1 << 30),
        ({"proc/self/cgroup": f"0::/{JOB}", f"{GROUP}/slurm/memory.max": "1000000"}, 1_000_000),
        (
            {
                "proc/self/cgroup": f"0::/{JOB}",
                f"{GROUP}/{JOB}/memory.max": "max",
                f"{GROUP}/slurm/uid_1000/memory.max": "3000000",
                f"{GROUP}/slurm/memory.max": "4000000",
            },
            3_000_000,
        ),
        ({f"{GROUP}/memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"proc/self/cgroup": V1, f"{GROUP}/memory/slurm/memory.limit_in_bytes": "5000000\n"}, 5_000_000),
        ({"proc/self/cgroup": "5:memory:/docker/ab", f"{GROUP}/memory/memory.limit_in_bytes": "7"}, 7),
    ],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], size: int | None) -> None:
    assert memory_limit(system(tmp_path, files)) == size


@pytest.mark.parametrize(("limit", "expected"), [(None, 8), (1, 1), (2, 2), (64, 8)])
def test_threads(monkeypatch: pytest.MonkeyPatch, limit: int | None, expected: int) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "cpu_limit", lambda: limit)
    assert devices.available_threads() == expected
    assert devices.choose_placement("cpu", None).threads == expected

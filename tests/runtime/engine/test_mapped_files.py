"""Pages of mapped files that are given back."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.engine.mapped_files import release_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

KIB = 1 << 10  # bytes


def resident_bytes(file: Path) -> int:
    """Return the bytes of a file that are in this process's memory, as the kernel counts them."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            counts = len(rest) == 5 and rest[4] == str(file.resolve())
        elif counts and first == "Rss:":
            total += int(rest[0]) * KIB
    return total


def test_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 64 * mmap.PAGESIZE, dtype=np.uint8)
    names = ("a file", "link", "other")
    file, link, other = (tmp_path / name for name in names)
    for path in (file, other):
        path.write_bytes(content.tobytes())
    link.symlink_to(file)
    mapped, kept = (np.memmap(path, np.uint8, mode="r") for path in (file, other))
    assert mapped.sum() == kept.sum() == content.sum()
    assert resident_bytes(file) == resident_bytes(other) == content.size
    release_pages([link, tmp_path / "missing"])
    assert resident_bytes(file) == 0
    assert resident_bytes(other) == content.size
    np.testing.assert_array_equal(mapped, content)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact"])
def test_a_loaded_bundle_keeps_no_second_copy_of_its_weights(
    rounded: Callable[[str, str], Path], precision: str
) -> None:
    """The sessions hold the weights in the order of their kernels, so the mapped files are given back."""
    bundle = rounded("gemma_one_kv_head", precision)
    model = PaliGemma.load(bundle, device="cpu")
    assert sum(map(resident_bytes, bundle.iterdir())) == 0
    assert model.generate(np.zeros((8, 8, 3), np.uint8), "caption en", max_new_tokens=4).token_ids

"""Pages of mapped files that are released."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paligemma_onnx.runtime import OptionError, PaliGemma
from paligemma_onnx.runtime.engine import prepared_graphs
from paligemma_onnx.runtime.engine.mapped_files import release_pages
from paligemma_onnx.runtime.engine.session import prepared_weights_name

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


def test_pages_are_released_and_read_again(tmp_path: Path) -> None:
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
    """The sessions hold the weights in the order of their kernels, so the mapped files are released."""
    bundle = rounded("gemma_one_kv_head", precision)
    model = PaliGemma.load(bundle, device="cpu")
    assert sum(map(resident_bytes, bundle.iterdir())) == 0
    assert model.generate(np.zeros((8, 8, 3), np.uint8), "caption en", max_new_tokens=4).token_ids


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "int4-compact", "int4-portable"])
def test_low_memory_keeps_only_the_weights_of_decode(
    rounded: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setenv(prepared_graphs.CACHE, str(tmp_path))
    bundle = rounded("gemma_one_kv_head", precision)
    folder = Path(prepared_graphs.prepare(bundle, lambda _: None).folder)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    resident: dict[bool, dict[str, int]] = {}
    answers = []
    for low_memory in (False, True):
        model = PaliGemma.load(bundle, device="cpu", low_memory=low_memory)
        answers += [model.generate(image, "caption en", max_new_tokens=12).token_ids for _ in range(2)]
        graphs = model.manifest.graphs
        resident[low_memory] = {
            graph.digest: resident_bytes(folder / prepared_weights_name(graph)) for graph in graphs.distinct
        }
        del model
    assert len(set(answers)) == 1
    assert all(resident[False].values())
    kept = {digest for digest, size in resident[True].items() if size > 0}
    assert kept == {graphs.decode.digest}


def test_low_memory_is_a_truth_value(shipped_bundle: Path) -> None:
    with pytest.raises(OptionError, match="low_memory is 'yes', expected True or False"):
        PaliGemma.load(shipped_bundle, low_memory="yes")  # type: ignore[arg-type]

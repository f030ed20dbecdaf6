"""The table and the ratios of the benchmarks, and the committed figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import ROOT

from benchmarks.memory import Memory
from benchmarks.metrics import step_at_past
from benchmarks.report import Bounds, bounds, kernels_of, ratio, read_figures, rows, table
from benchmarks.results import Result

MEASURED = ROOT / "benchmarks" / "measured"


def test_ratios_say_how_many_times_as_good() -> None:
    assert ratio(0.1, 0.4, "less") == pytest.approx(4)
    assert ratio(30, 20, "more") == pytest.approx(1.5)
    assert ratio(None, 1, "less") is None
    assert ratio(1, None, "more") is None
    assert ratio(0, 1, "less") is None


def test_table_of_fixed_figures() -> None:
    def result(name: str, step_s: float, images: float) -> Result:
        figures = {"step_s_1": step_s, "images_per_minute_1": images, "prefill_s": 1.0}
        slower = figures | {"step_s_1": step_s * 9}
        return Result(
            name, starts=[4.0, 2.0], rounds=[figures, slower, figures], peak=Memory(proportional=8 * 10**9)
        )

    int4, reference = result("int4", 0.1, 30.0), result("transformers bf16", 0.4, 20.0)
    int4.decoder_bytes = 10**9
    failed = Result("fp32", failure="its process was killed, as the system does when memory runs out")
    limit = Bounds(read_bytes_per_s=20e9, operations_per_s=1e12, prefill_operations=5 * 10**11)
    results = {system.name: system for system in (int4, failed, reference)}
    text = table(results, rows([1], [264], limit), limit, "transformers bf16")
    lines = text.splitlines()
    assert lines[0] == "| | int4 | fp32 | transformers bf16 |"
    for line in (
        "| first start, s | 4.00 (1.00x) | - | 4.00 |",
        "| memory (PSS), GB | 8.00 (1.00x) | - | 8.00 |",
        "| decode step at batch 1, s | 0.1000 (4.00x) | - | 0.4000 |",  # medians: one round was slow
        "| images/min at batch 1 | 30.0 (1.50x) | - | 20.0 |",
        "| lower bound of a decode step, s | 0.0500 | - | - |",
        "| decode step / lower bound | 2.00 | - | - |",
        "| prefill / lower bound | 2.00 | - | 2.00 |",
        "fp32 FAILED: its process was killed, as the system does when memory runs out",
    ):
        assert line in lines, text
    assert "264-token cache" not in text  # not measured


def test_time_between_kernels() -> None:
    step = {"seen": True, "kernels": 200.0, "kernels_s": 0.003}
    text = "200 kernels per decode step, which take 3.000 ms"
    assert kernels_of(step, 0.004) == f"{text}, and 5.0 us per kernel outside of kernels"
    assert kernels_of(step, None) == text
    assert kernels_of({"seen": False, "why": "torch has no CUDA here"}, 0.004).endswith("no CUDA here")


def test_bounds_take_the_faster_product() -> None:
    rates = {"read_bytes_per_s": 2e10, "bf16_operations_per_s": 8e11, "int8_operations_per_s": 2e12}
    assert bounds(Result("limits", rounds=[rates]), 7) == Bounds(2e10, 2e12, 7)
    assert bounds(Result("limits"), 7) is None


@pytest.mark.parametrize("file", sorted(MEASURED.glob("paligemma*.json")), ids=lambda file: file.stem)
def test_committed_figures_can_be_read(file: Path) -> None:
    """`benchmarks.plot` draws them; their keys are those of the version that measured them."""
    results, pasts, limit = read_figures(file)
    assert limit is not None
    assert 4096 in pasts
    int4 = next(result for name, result in results.items() if name.startswith("int4"))
    assert limit.decode_s(int4) == pytest.approx((int4.decoder_bytes or 0) / limit.read_bytes_per_s)
    assert all((int4.median(step_at_past(past)) or 0) > 0 for past in pasts)

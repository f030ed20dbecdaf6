"""Average precision and calibration by hand, and the command that measures them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from training.calibration import RANKINGS, main
from training.detection_metrics import LabelledBox, average_precision, calibration, correct_boxes

TRUTH = [
    LabelledBox(0, "cat", (0, 0, 100, 100)),
    LabelledBox(0, "cat", (200, 0, 300, 100)),
    LabelledBox(1, "dog", (0, 0, 50, 50)),
]
FOUND = [
    LabelledBox(0, "cat", (0, 0, 100, 100), 0.9),
    LabelledBox(0, "cat", (0, 0, 100, 95), 0.8),  # of the object that the first box has
    LabelledBox(0, "cat", (200, 0, 300, 60), 0.7),  # IoU 0.6
    LabelledBox(1, "cat", (0, 0, 50, 50), 0.95),  # a wrong label
]


def test_correct_boxes() -> None:
    assert correct_boxes(TRUTH, FOUND).tolist() == [True, False, True, False]
    assert correct_boxes(TRUTH, FOUND, 0.75).tolist() == [True, False, False, False]
    assert correct_boxes(TRUTH, []).tolist() == []


def test_average_precision_by_hand() -> None:
    """cat: wrong, right, wrong, right, so the precision is at most 1/2; dog: nothing found."""
    result = average_precision(TRUTH, FOUND)
    assert result.ap50 == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert result.ap75 == pytest.approx((0.5 * 51 / 101 + 0) / 2, abs=1e-6)
    assert result.precision[0] == pytest.approx(0.25)
    assert len(result.precision) == 101
    assert average_precision(TRUTH, [LabelledBox(t.image, t.label, t.box, 1.0) for t in TRUTH]).ap == 1


def test_calibration_by_hand() -> None:
    scores, correct = np.array([0.95, 0.93, 0.25, 1.0]), np.array([True, False, False, True])
    result = calibration(scores, correct)
    assert result.expected_calibration_error == pytest.approx(3 / 4 * abs(0.96 - 2 / 3) + 1 / 4 * 0.25)
    assert [entry.boxes for entry in result.bins] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    assert (result.mean_score, result.correct) == (pytest.approx(0.7825), 0.5)
    rng = np.random.default_rng(0)
    drawn = rng.random(100_000)
    assert calibration(drawn, rng.random(100_000) < drawn).expected_calibration_error < 0.01


@pytest.mark.slow
def test_the_command(shipped_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    result = CliRunner().invoke(
        main, [str(shipped_bundle), "--scenes", "24", "--json", str(file)], catch_exceptions=False
    )
    assert result.exit_code == 0
    (measured,) = json.loads(file.read_text(encoding="utf-8"))["models"]
    assert measured["average_precision"]["ap50"] >= 0.8
    assert measured["calibration"]["expected_calibration_error"] < 0.2
    assert measured["average_precision_by_ranking"].keys() == RANKINGS.keys()
    assert "| AP (IoU 0.5 to 0.95) |" in result.output

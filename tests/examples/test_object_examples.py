"""The examples about objects: boxes drawn into the image, and masks in COCO's format."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from example_runs import run_example
from paths import GOLDEN, SCENE
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from paligemma_onnx.runtime import PaliGemma

CORRECT = json.loads((GOLDEN / "demo.json").read_text(encoding="utf-8"))["detect circle ; star"]
MAX_ERROR = 0.02  # of the image's side, for an edge of a box; the model's mean IoU is 0.91


@pytest.mark.usefixtures("clone")
def test_detect_draws(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run_example("detect.py", monkeypatch, capfd)
    found = re.findall(r"(\w+): ([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+) \(score [\d.]+\)", out)
    boxes = {label: [float(edge) for edge in edges] for label, *edges in found}
    scene = np.asarray(Image.open(SCENE).convert("RGB"))
    numbers = [int(number) * len(scene) / 1024 for number in re.findall(r"<loc(\d+)>", CORRECT)]
    for label, (top, left, bottom, right) in (("circle", numbers[:4]), ("star", numbers[4:])):
        assert boxes[label] == pytest.approx([left, top, right, bottom], abs=MAX_ERROR * len(scene))
    drawn = np.asarray(Image.open("found.png").convert("RGB"))
    changed = (drawn != scene).any(axis=-1)
    inside = np.zeros_like(changed)
    for left, top, right, bottom in boxes.values():
        # With the outline, and the label above or below the edge.
        rows = slice(max(0, round(top) - 20), round(bottom) + 4)
        area = rows, slice(max(0, round(left) - 4), round(right) + 4)
        assert changed[area].any()
        inside[area] = True
    assert not changed[~inside].any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.usefixtures("clone")
def test_segment_to_coco(
    model: PaliGemma, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """pycocotools reads the file; its areas, boxes and IoU agree with the masks of the API."""
    files = [str(SCENE), "tests/golden/seen-12000004.png"]
    out, _ = run_example("segment_coco.py", monkeypatch, capfd, files[1])
    coco = COCO("masks.json")
    names = ["star", "ring"]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == names
    for image_id, file in enumerate(files, start=1):
        found = model.segment(file, names, constrained=True)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        masks = [each.mask.array for each in found if each.mask is not None]
        assert len(annotations) == len(masks)
        assert [names[each["category_id"] - 1] for each in annotations] == [each.label for each in found]
        for annotation, mask in zip(annotations, masks, strict=True):
            run_lengths = coco.annToRLE(annotation)
            assert coco_mask.area(run_lengths) == annotation["area"] == mask.sum()
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert coco_mask.iou([run_lengths], [expected], [False]) == 1.0
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            x, y, width, height = coco_mask.toBbox(run_lengths)
            left, top, box_width, box_height = annotation["bbox"]
            assert x >= left - 1
            assert y >= top - 1
            assert x + width <= left + box_width + 1
            assert y + height <= top + box_height + 1
    assert f"{len(coco.anns)} masks in 2 images" in out
    assert len(coco.anns) >= 2

"""Segment objects in images and write their masks as a data set in COCO's format.

    python examples/segment_coco.py demo-output/bundle masks.json "star ; ring" export/demo/scene.png

pycocotools and the tools built on it read the file. The bundle needs a mask decoder (docs/export.md).
"""

import json
import sys
from pathlib import Path

from paligemma_onnx.runtime import PaliGemma


def main(bundle: str, output: str, labels: str, *files: str) -> None:
    """Segment the labels in every image."""
    model = PaliGemma.load(bundle)
    names = [label.strip() for label in labels.split(";")]
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, file in enumerate(files, start=1):
        detections = model.segment(file, names, constrained=True)
        size = {"width": detections.width, "height": detections.height}
        images.append({"id": image_id, "file_name": file, **size})
        for detection in detections:
            if detection.mask is None or not (area := int(detection.mask.array.sum())):
                continue  # the model wrote a box without a mask, or the mask is empty
            left, top, right, bottom = detection.pixels
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": names.index(detection.label) + 1,
                    "segmentation": detection.mask.rle,  # run lengths, which COCO tools decode to a bitmap
                    "area": area,  # pixels
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    "score": detection.score,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    Path(output).write_text(json.dumps(document), encoding="utf-8")
    print(f"{len(annotations)} masks in {len(images)} images -> {output}")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

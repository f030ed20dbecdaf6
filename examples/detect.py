"""Find objects, print their boxes, and draw them into a copy of the image.

    python examples/detect.py demo-output/bundle export/demo/scene.png "circle ; star" found.png

Labels are separated by `;`. Boxes are in pixels of the displayed image: left, top, right, bottom.
"""

import sys

from paligemma_onnx.runtime import PaliGemma

MIN_SCORE = 0.5  # of 1: the model is not sure of objects below it, docs/detection-scores.md


def main(bundle: str, image: str, labels: str, output: str) -> None:
    """Detect objects and draw them."""
    model = PaliGemma.load(bundle)
    # With `constrained` the answer consists of complete objects with these labels.
    detections = model.detect(image, labels, constrained=True)
    for detection in detections:
        score = detection.score or 0.0
        box = ", ".join(f"{edge:.1f}" for edge in detection.pixels)
        print(f"{detection.label}: {box} (score {score:.2f}{'' if score >= MIN_SCORE else ', uncertain'})")
    detections.drawn().save(output)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

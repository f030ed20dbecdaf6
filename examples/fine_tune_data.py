"""Write the data set of a new task for fine-tuning, in the format that trainers of PaliGemma share.

    python -m examples.fine_tune_data --output dataset

Each line of annotations.jsonl has `image` (a file next to it), `prefix` (the prompt) and `suffix` (the
answer). The task: `largest` asks for the colour and shape of the object that covers most pixels. Run it from
the root of a clone, because training/, which draws the scenes, is not installed.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from training.scenes import render_scene

FIRST_SEEDS = {"train": 20_000_000, "valid": 21_000_000}  # the included model has seen none of these scenes
MIN_RATIO = 1.25  # of the largest object's pixels to the second one's, so that the answer is unambiguous


def examples(first_seed: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield scenes of several objects, each with the correct answer."""
    seed = first_seed
    while True:
        rendered = render_scene(seed)
        seed += 1
        areas = [int(mask.sum()) for mask in rendered.masks]
        second, largest = sorted([0, 0, *areas])[-2:]
        if second and largest >= MIN_RATIO * second:
            yield Image.fromarray(rendered.pixels), rendered.scene.items[areas.index(largest)].name


def write(folder: Path, first_seed: int, count: int) -> None:
    """Write a split: its images and annotations.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "annotations.jsonl").open("w", encoding="utf-8") as lines:
        for number, (image, answer) in zip(range(count), examples(first_seed), strict=False):
            name = f"{number:05d}.jpg"
            image.save(folder / name, quality=90)
            print(json.dumps({"image": name, "prefix": "largest", "suffix": answer}), file=lines)


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the data set")
    parser.add_argument("--train", type=int, default=2000, help="number of examples to train on")
    parser.add_argument("--valid", type=int, default=500, help="number of examples to measure on")
    arguments = parser.parse_args()
    write(arguments.output / "train", FIRST_SEEDS["train"], arguments.train)
    write(arguments.output / "valid", FIRST_SEEDS["valid"], arguments.valid)


if __name__ == "__main__":
    main()

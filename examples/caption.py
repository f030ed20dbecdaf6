"""Write a caption for each image.

    python examples/caption.py demo-output/bundle export/demo/scene.png

An image that cannot be read gets a message, and the others are still captioned. For thousands of images see
folder_to_parquet.py.
"""

import sys

from paligemma_onnx.runtime import ImageError, PaliGemma


def main(bundle: str, *images: str) -> None:
    """Print a caption per image."""
    model = PaliGemma.load(bundle)
    for image in images:
        try:
            answer = model.generate(image, "caption en", max_new_tokens=60)
        except ImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        # "stop": the model ended its answer; "length": 60 tokens were not enough.
        print(f"{image}: {answer.text}{' ...' if answer.finish_reason == 'length' else ''}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

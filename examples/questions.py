r"""Ask several questions about one image, which the vision encoder encodes once.

    python examples/questions.py demo-output/bundle export/demo/scene.png \
        "answer en how many objects are there?" "answer en what does it say?" "caption en"

`generate_batch` encodes each different image of its requests once, and answers all prompts at the same time.
Separate calls of `generate` would encode the image again in every call.
"""

import sys

from paligemma_onnx.runtime import PaliGemma, Request


def main(bundle: str, image: str, *prompts: str) -> None:
    """Print an answer per prompt."""
    model = PaliGemma.load(bundle)
    opened = model.open(image)  # decoded, resized and normalised once; later batches may use it again
    answers = model.generate_batch([Request(opened, prompt) for prompt in prompts], max_new_tokens=60)
    for prompt, answer in zip(prompts, answers, strict=True):
        print(f"{prompt} -> {answer.text}")
    print(f"the image was encoded in {answers[0].timings.vision_s * 1000:.0f} ms", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

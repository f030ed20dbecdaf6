"""Make the golden files: images, prompts and the ids of the torch model's answers, and the demo's scene.

    python tests/golden/make_golden.py

The tests compare torch, the exported graphs and transformers with the ids in golden.json, and the demo with
the correct answers in demo.json. Run the script only when the shipped model changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from paligemma_onnx.export.demo.demo import PROMPTS, SCENE
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.validation.torch_runner import open_torch_model
from training.evaluate import PLACEHOLDER_MASKS, prompts_for
from training.scenes import Scene, render_scene
from training.tasks import KINDS, make_example

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
SCENES = ((12_000_000, "seen"), (12_000_004, "seen"), (12_000_011, "seen"), (12_000_001, "held-out"))
MAX_NEW_TOKENS = 96  # per answer
DEMO_SEED = 12_001_644
MAX_DRAWS = 2_000  # random examples drawn per prompt of the demo, until one has that prompt


def main() -> None:
    """Write all golden files."""
    write_golden()
    write_demo()


def write_demo() -> None:
    """Write the demo's scene, and demo.json with the correct answer to each of its prompts.

    The `<seg>` tokens in the answers are placeholders.
    """
    rendered = render_scene(DEMO_SEED)
    Image.fromarray(rendered.pixels).save(ROOT / "export" / "demo" / SCENE, optimize=True)
    answers = {prompt: correct_answer(rendered.scene, prompt) for prompt in PROMPTS}
    (FOLDER / "demo.json").write_text(json.dumps(answers, indent=2) + "\n", encoding="utf-8")


def correct_answer(scene: Scene, prompt: str) -> str:
    """Return the correct answer to a prompt, from the code that generates training examples.

    Raises:
        LookupError: no example of the scene has this prompt.
    """
    for seed in range(MAX_DRAWS):
        for kind in KINDS:
            example = make_example(scene, kind, np.random.RandomState(seed), PLACEHOLDER_MASKS)
            if example is not None and example.prompt == prompt:
                return example.suffix
    raise LookupError(f"{prompt!r} is not a prompt about scene {scene.seed}")


def write_golden() -> None:
    """Write the image of each scene, and golden.json with the torch model's answers."""
    entries = []
    with shipped_model() as folder:
        model = open_torch_model(folder)
        for seed, combinations in SCENES:
            rendered = render_scene(seed, combinations)  # type: ignore[arg-type]
            image = FOLDER / f"{combinations}-{seed}.png"
            Image.fromarray(rendered.pixels).save(image, optimize=True)
            for scene_prompt in prompts_for(rendered):
                example = scene_prompt.example
                answer = model.generate(image, example.prompt, max_new_tokens=MAX_NEW_TOKENS)
                entries.append(
                    {
                        "image": image.name,
                        "kind": example.kind,
                        "prompt": example.prompt,
                        "text": answer.text,
                        "ids": list(answer.token_ids),
                        "finish": answer.finish_reason,
                        "right": answer.text == example.suffix,
                    }
                )
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (FOLDER / "golden.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

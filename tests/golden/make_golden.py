"""Makes the golden run: pictures, prompts, and the ids our torch model answers with; and the demo's scene.

    python tests/golden/make_golden.py

The tests hold torch, the exported graphs and transformers against the ids in golden.json, and the demo
against the truth in demo.json. Both are made again only when the shipped model is.
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
MOST_NEW_TOKENS = 96
DEMO = 12_001_644  # seed of the demo's scene
DRAWS = 2_000  # of an example, until it asks what the demo asks


def main() -> None:
    """Write everything."""
    write_golden()
    write_demo()


def write_demo() -> None:
    """The demo's scene, and demo.json: the true answer to each of its prompts, mask codes aside."""
    drawing = render_scene(DEMO)
    Image.fromarray(drawing.pixels).save(ROOT / "export" / "demo" / SCENE, optimize=True)
    answers = {prompt: truth(drawing.scene, prompt) for prompt in PROMPTS}
    (FOLDER / "demo.json").write_text(json.dumps(answers, indent=2) + "\n", encoding="utf-8")


def truth(scene: Scene, prompt: str) -> str:
    """What is true of a scene, from the same code that teaches it."""
    for number in range(DRAWS):
        for kind in KINDS:
            drawn = make_example(scene, kind, np.random.RandomState(number), PLACEHOLDER_MASKS)
            if drawn is not None and drawn.prompt == prompt:
                return drawn.suffix
    raise LookupError(f"{prompt!r} is never asked about scene {scene.seed}")


def write_golden() -> None:
    """NAME.png for each scene, and golden.json."""
    entries = []
    with shipped_model() as folder:
        model = open_torch_model(folder)
        for seed, combinations in SCENES:
            drawing = render_scene(seed, combinations)  # type: ignore[arg-type]
            picture = FOLDER / f"{combinations}-{seed}.png"
            Image.fromarray(drawing.pixels).save(picture, optimize=True)
            for asked in prompts_for(drawing):
                prompt = asked.example.prompt
                answer = model.generate(picture, prompt, max_new_tokens=MOST_NEW_TOKENS)
                entries.append(
                    {
                        "image": picture.name,
                        "kind": asked.example.kind,
                        "prompt": prompt,
                        "text": answer.text,
                        "ids": list(answer.token_ids),
                        "finish": answer.finish_reason,
                        "right": answer.text == asked.example.suffix,
                    }
                )
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (FOLDER / "golden.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

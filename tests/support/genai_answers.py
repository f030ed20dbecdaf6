"""Answer prompts with onnxruntime-genai; in a separate process, because it hangs in one that ran onnxruntime.

python genai_answers.py FOLDER JOB.json -> the generated ids as JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai


def answer(model: Any, request: dict[str, Any]) -> list[int]:
    """Return the greedy ids after a prompt, including the stop id."""
    ids = request["ids"]
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=len(ids) + request["tokens"])
    generator = genai.Generator(model, options)
    inputs = genai.NamedTensors()
    inputs["input_ids"] = np.array([ids], np.int32)
    inputs["pixel_values"] = np.load(request["pixels"])
    inputs["num_image_tokens"] = np.array([request["image_tokens"]], np.int64)
    generator.set_inputs(inputs)
    chosen = []
    while not generator.is_done():
        generator.generate_next_token()
        chosen.append(int(generator.get_next_tokens()[0]))
    return chosen


if __name__ == "__main__":
    folder, job = sys.argv[1:]
    loaded = genai.Model(folder)
    print(json.dumps([answer(loaded, each) for each in json.loads(Path(job).read_text(encoding="utf-8"))]))

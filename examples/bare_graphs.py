"""Answer a prompt without this package: the graphs of a bundle, onnxruntime, NumPy, tokenizers and Pillow.

    python examples/bare_graphs.py demo-output/bundle export/demo/scene.png "caption en"

A starting point for another language: docs/bundle-format.md describes each input. It runs bundles for CPUs in
every precision, greedily, one row at a time; the package adds batches, sampling, checks and less copying.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort  # reads the variable

ort.set_default_logger_severity(3)  # errors only: it warns about each cache that a step copies

Array = np.ndarray[Any, np.dtype[Any]]


def pixel_values(file: str, facts: dict[str, Any]) -> Array:
    """Return float32[1, 3, S, S], as the model's training saw images."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    image = image.resize((facts["size"], facts["size"]), Image.Resampling.BICUBIC)
    scaled = np.asarray(image, np.float32) * np.float32(facts["rescale_factor"])
    return ((scaled - np.float32(facts["mean"])) / np.float32(facts["std"])).transpose(2, 0, 1)[None]


def step(session: Any, feeds: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Run a graph with those of the feeds that it takes; return logits float32[1, V] and the cache."""
    logits, *present = session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()})
    names = [each.name.replace("present", "past_key_values") for each in session.get_outputs()[1:]]
    return logits, dict(zip(names, present, strict=True))


def answer(folder: Path, file: str, prompt: str) -> tuple[list[int], str]:
    """Return ids and text of the greedy answer."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokens, facts = manifest["tokens"], manifest["cache"]
    vision, prefill, decode = (
        ort.InferenceSession(folder / manifest["graphs"][name]["file"], providers=["CPUExecutionProvider"])
        for name in ("vision_encoder", "prefill", "decode")
    )
    features = vision.run(None, {"pixel_values": pixel_values(file, manifest["image"])})[0]
    tokenizer = Tokenizer.from_file(str(folder / tokens["file"]))
    ids = np.array([[tokens["bos"], *tokenizer.encode(f"{prompt}\n", add_special_tokens=False).ids]])
    used = features.shape[1] + ids.shape[1]
    limit = min(manifest["generation"]["max_new_tokens"], manifest["model"]["context_length"] - used)
    # Only a prefill that updates its cache in place takes one: slots for the prompt and the whole answer.
    shape = (1, used + limit, facts["heads"] * facts["head_dim"])
    row = {
        "image_features": features,
        "text_lengths": np.array([ids.shape[1]]),
        "past_lengths": np.array([0]),
    }
    empty = {each.name: np.zeros(shape, np.float32) for each in prefill.get_inputs() if "past_k" in each.name}
    logits, cache = step(prefill, {"input_ids": ids, **row, **empty})
    row = {"image_features": features[:, :0], "text_lengths": np.array([1])}
    chosen: list[int] = []
    while len(chosen) < limit:
        logits[:, tokens["suppressed"]] = -np.inf
        if (token := int(logits.argmax())) in tokens["stop"]:
            break
        chosen.append(token)
        row |= {"input_ids": np.array([[token]]), "past_lengths": np.array([used + len(chosen) - 1])}
        logits, cache = step(decode, {**row, **cache})
    return chosen, tokenizer.decode(chosen, skip_special_tokens=False)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    ids, text = answer(Path(sys.argv[1]), *sys.argv[2:])
    print(f"{ids}\n{text}")

"""Answer a prompt with OpenVINO, on a bundle with a growing cache: `fp32` or `int4-portable`.

    python examples/openvino_graphs.py demo-output/bundle export/demo/scene.png "caption en"

Needs `pip install openvino numpy pillow tokenizers`. docs/runtimes.md says which precisions OpenVINO runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from PIL import Image, ImageOps
from tokenizers import Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
DEVICE = "CPU"  # GPU and NPU are Intel's
# On processors with bfloat16 OpenVINO computes in bfloat16 unless this is set.
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32"}


def pixel_values(file: str, facts: dict[str, Any]) -> Array:
    """Return float32[1, 3, S, S], as the model's training saw images."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    image = image.resize((facts["size"], facts["size"]), Image.Resampling.BICUBIC)
    scaled = np.asarray(image, np.float32) * np.float32(facts["rescale_factor"])
    return ((scaled - np.float32(facts["mean"])) / np.float32(facts["std"])).transpose(2, 0, 1)[None]


def answer(folder: Path, file: str, prompt: str) -> tuple[list[int], str]:
    """Return ids and text of the greedy answer."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokens, graphs = manifest["tokens"], manifest["graphs"]
    if manifest["cache"]["update"] != "grow":
        sys.exit(f"{folder}: OpenVINO has no TensorScatter; export with --precision fp32 or int4-portable")
    core = openvino.Core()
    vision, prefill, decode = (
        core.compile_model(folder / graphs[name]["file"], DEVICE, OPTIONS)
        for name in ("vision_encoder", "prefill", "decode")
    )
    past = [each["name"] for each in graphs["decode"]["inputs"] if each["name"].startswith("past_key")]
    (features,) = vision({"pixel_values": pixel_values(file, manifest["image"])}).to_tuple()
    tokenizer = Tokenizer.from_file(str(folder / tokens["file"]))
    ids = np.array([[tokens["bos"], *tokenizer.encode(f"{prompt}\n", add_special_tokens=False).ids]])
    text = {"input_ids": ids, "text_lengths": np.array([ids.shape[1]])}
    logits, *cache = prefill({**text, "image_features": features}).to_tuple()
    used = features.shape[1] + ids.shape[1]
    limit = min(manifest["generation"]["max_new_tokens"], manifest["model"]["context_length"] - used)
    chosen: list[int] = []
    while len(chosen) < limit:
        logits = logits.copy()
        logits[:, tokens["suppressed"]] = -np.inf
        if (token := int(logits.argmax())) in tokens["stop"]:
            break
        chosen.append(token)
        row = {"input_ids": np.array([[token]]), "past_lengths": np.array([used + len(chosen) - 1])}
        logits, *cache = decode({**row, **dict(zip(past, cache, strict=True))}).to_tuple()
    return chosen, tokenizer.decode(chosen, skip_special_tokens=False)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    ids, text = answer(Path(sys.argv[1]), *sys.argv[2:])
    print(f"{ids}\n{text}")

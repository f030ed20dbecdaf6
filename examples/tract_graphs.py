"""Answer a prompt with tract, on a bundle with a growing cache: `fp32` or `int4-portable`.

    python examples/tract_graphs.py demo-output/bundle export/demo/scene.png "caption en"

Needs `pip install tract numpy pillow tokenizers`. docs/runtimes.md says which precisions tract runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tract
from PIL import Image, ImageOps
from tokenizers import Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
TYPES = {"float32": "f32", "int64": "i64"}  # names of dtypes in tract


def pixel_values(file: str, facts: dict[str, Any]) -> Array:
    """Return float32[1, 3, S, S], as the model's training saw images."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    image = image.resize((facts["size"], facts["size"]), Image.Resampling.BICUBIC)
    scaled = np.asarray(image, np.float32) * np.float32(facts["rescale_factor"])
    return ((scaled - np.float32(facts["mean"])) / np.float32(facts["std"])).transpose(2, 0, 1)[None]


def compile_graph(path: Path, arrays: list[Array] | None = None) -> Any:
    """Compile a graph, for the shapes of `arrays` if they are given."""
    model = tract.onnx().load(path)
    for index, array in enumerate(arrays or []):
        model.set_input_fact(index, ",".join([*map(str, array.shape), TYPES[array.dtype.name]]))
    return model.into_model().into_runnable()


def answer(folder: Path, file: str, prompt: str) -> tuple[list[int], str]:
    """Return ids and text of the greedy answer."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokens, graphs = manifest["tokens"], manifest["graphs"]
    if manifest["cache"]["update"] != "grow":
        sys.exit(f"{folder}: tract has no TensorScatter; export with --precision fp32 or int4-portable")
    vision = compile_graph(folder / graphs["vision_encoder"]["file"])
    features = vision.run([pixel_values(file, manifest["image"])])[0].to_numpy()
    tokenizer = Tokenizer.from_file(str(folder / tokens["file"]))
    ids = np.array([[tokens["bos"], *tokenizer.encode(f"{prompt}\n", add_special_tokens=False).ids]])
    feeds = {"input_ids": ids, "image_features": features, "text_lengths": np.array([ids.shape[1]])}
    inputs = [feeds[each["name"]] for each in graphs["prefill"]["inputs"]]
    # The number of tokens of a prompt must be a number, not a symbol.
    logits, *cache = compile_graph(folder / graphs["prefill"]["file"], inputs).run(inputs)
    decode = compile_graph(folder / graphs["decode"]["file"])
    used = features.shape[1] + ids.shape[1]
    limit = min(manifest["generation"]["max_new_tokens"], manifest["model"]["context_length"] - used)
    chosen: list[int] = []
    while len(chosen) < limit:
        scores = logits.to_numpy().copy()
        scores[:, tokens["suppressed"]] = -np.inf
        if (token := int(scores.argmax())) in tokens["stop"]:
            break
        chosen.append(token)
        # The inputs of decode are the token, its position and the cache, in this order.
        row = [np.array([[token]]), np.array([used + len(chosen) - 1])]
        logits, *cache = decode.run([*row, *cache])
    return chosen, tokenizer.decode(chosen, skip_special_tokens=False)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    ids, text = answer(Path(sys.argv[1]), *sys.argv[2:])
    print(f"{ids}\n{text}")

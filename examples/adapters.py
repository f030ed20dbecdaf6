r"""Serve several LoRA adapters of one base model: a bundle for each, with equal files stored once.

    python examples/adapters.py export/demo/paligemma-scenes bundles export/demo/scene.png "caption en" \
        adapter-decoder adapter-both

`export` merges an adapter into the weights: every adapter needs a bundle, and a loaded bundle cannot switch.
Files that are equal become hard links to one file: tokenizer, mask decoder, and the vision encoder of an
adapter that changes only the decoder. Loaded fp32 bundles then share the memory of these weights, too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from paligemma_onnx.runtime import PaliGemma


def link_equal_files(bundles: Iterable[Path]) -> int:
    """Replace files of equal content by hard links to the first one; return the bytes saved."""
    first: dict[str, Path] = {}  # by SHA-256
    saved = 0
    for bundle in bundles:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            file = bundle / name
            original = first.setdefault(facts["sha256"], file)
            if not file.samefile(original):
                link = file.with_suffix(".link")
                os.link(original, link)
                link.replace(file)  # the bundle is complete at every moment
                saved += facts["bytes"]
    return saved


def main(base: str, output: str, image: str, prompt: str, *adapters: str) -> None:
    """Export the base model without and with each adapter, and print every bundle's answer."""
    options = {"base": [], **{Path(adapter).name: ["--adapter", adapter] for adapter in adapters}}
    bundles = [Path(output, name) for name in options]
    for bundle, merged in zip(bundles, options.values(), strict=True):
        if not bundle.exists():
            subprocess.run(["paligemma-onnx", "export", base, "--output", bundle, *merged], check=True)
    print(f"equal files are stored once: {link_equal_files(bundles) / 1e6:.1f} MB saved")
    models = {bundle.name: PaliGemma.load(bundle) for bundle in bundles}
    for name, model in models.items():
        print(f"{name}: {model.generate(image, prompt, max_new_tokens=60).text}")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])

"""Damaged manifests: of another release, contradictory, malicious, or cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import edit_json

from paligemma_onnx.runtime.bundle.manifest import MAX_MANIFEST_BYTES

Damage = Callable[[Path], object]
CASE = "gemma_one_kv_head"  # the bundle that the damage is made for


def setting(*path: str | int, to: Any) -> Damage:
    """Return a function that sets a value of the manifest."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return lambda folder: edit_json(folder / "manifest.json", change)


def writing(content: bytes) -> Damage:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def dropping(*path: str) -> Damage:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return lambda folder: edit_json(folder / "manifest.json", change)


def fifo(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


# Damage to the folder of a bundle, and words of the driver's message.
MANIFESTS: list[tuple[Damage, str]] = [
    (
        lambda folder: (folder / "manifest.json").unlink(),
        "manifest.json: no such file; `paligemma-onnx export",
    ),
    (shutil.rmtree, "manifest.json: no such file"),
    (fifo, "not a regular file"),
    (writing(b""), "not valid JSON"),
    (writing(b"{"), "not valid JSON"),
    (writing(b"\xff\xfe"), "not valid JSON"),
    (writing(b"[" * 100_000), "not valid JSON"),
    (writing(b'{"schema_version": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    (writing(b"[]"), "not a JSON object"),
    (writing(b"{}"), "schema_version is not"),
    (writing(b" " * (MAX_MANIFEST_BYTES + 1)), "larger than"),
    (setting("schema_version", to=99), "schema 99 is newer than this release reads (3); update it"),
    (setting("schema_version", to=1), "schema 1 is older than this release reads (2); export the checkpoint"),
    (setting("schema_version", to=0), "schema_version is not"),
    (setting("schema_version", to="1"), "schema_version is not"),
    (setting("schema_version", to=True), "schema_version is not"),
    (setting("shape", to=1), "an unknown field, 'shape'"),
    (setting("model", "sise", to=1), "an unknown field, 'sise'"),
    (dropping("cache"), "cache is missing"),
    (dropping("model", "hidden_size"), "model.hidden_size is missing"),
    (setting("model", "hidden_size", to="32"), "model.hidden_size is of a wrong type"),
    (setting("model", "hidden_size", to=32.0), "model.hidden_size is of a wrong type"),
    (setting("model", "hidden_size", to=True), "model.hidden_size is of a wrong type"),
    (setting("model", "hidden_size", to=None), "model.hidden_size is of a wrong type"),
    (setting("model", to=[]), "model is of a wrong type"),
    (setting("model", "family", to="llava"), "model.family is of a wrong type"),
    (setting("tokens", "stop", to="ab"), "tokens.stop is of a wrong type"),
    (setting("tokens", "stop", to=[1, "2"]), "tokens.stop is of a wrong type"),
    (setting("tokens", "stop", to=[]), "tokens.stop is empty"),
    (setting("tokens", "stop", to=[10**9]), "token id 1000000000 is outside the vocabulary"),
    (setting("tokens", "bos", to=-1), "token id -1 is outside the vocabulary"),
    (setting("image", "mean", to=[0.5, 0.5]), "image.mean is of a wrong type"),
    (setting("image", "std", to=[0.5, 0.0, 0.5]), "image.std is not a number above 0"),
    (setting("image", "rescale_factor", to=float("nan")), "image.rescale_factor or"),
    (setting("image", "mean", 1, to=float("inf")), "image.mean is not finite"),
    (setting("image", "rescale_factor", to=10**400), "holds a number that does not fit into 64 bits"),
    (setting("image", "rescale_factor", to=1e300), "is not a number above 0, from 1e-09 to 1e+09"),
    (setting("image", "std", 0, to=1e-300), "image.std is not a number above 0"),
    (setting("image", "mean", 0, to=1e300), "image.mean is not finite or over 1e+09"),
    (setting("model", "context_length", to=1 << 63), "holds a number that does not fit into 64 bits"),
    (setting("model", "context_length", to=1 << 62), "expected at most 2147483647"),
    (setting("image", "size", to=-28), "image.size is -28, expected at least 1"),
    (setting("image", "size", to=10**9), "graphs.vision_encoder: the shape of pixel_values does not follow"),
    (setting("image", "tokens", to=5), "the shape of image_features does not follow"),
    (setting("model", "vocab_size", to=10**6), "the shape of logits does not follow"),
    (
        setting("cache", "layers", to=10**9),
        "cache.layers is 1000000000, the decode graph has fewer outputs",
    ),
    (setting("cache", "layers", to=1), "graphs.prefill has other inputs or outputs than the driver uses"),
    (setting("cache", "heads", to=3), "the shape of present.0.key does not follow"),
    (setting("cache", "update", to="in_place"), "graphs.prefill has other inputs or outputs"),
    (setting("cache", "update", to=True), "cache.update is of a wrong type"),
    (setting("generation", "max_new_tokens", to=0), "generation.max_new_tokens is 0"),
    (setting("generation", "max_new_tokens", to=10**9), "over model.context_length"),
    (setting("graphs", "decode", "inputs", to=[]), "graphs.decode has other inputs or outputs"),
    (
        setting("graphs", "decode", "inputs", 0, "shape", to="ab"),
        "graphs.decode.inputs.shape is of a wrong type",
    ),
    (
        setting("graphs", "decode", "inputs", 0, "shape", to=["batch", 2]),
        "graphs.decode: the shape of input_ids does not follow",
    ),
    (setting("graphs", "decode", "inputs", 0, "dtype", to="int8"), "dtype is of a wrong type"),
    (setting("files", to=[]), "files is of a wrong type"),
    (setting("files", to={}), "'vision_encoder.onnx' is used but not listed under files"),
    *(
        (setting("graphs", "decode", "file", to=name), "is not a plain file name")
        for name in (
            "../decode.onnx",
            "/decode.onnx",
            "a/b",
            "..",
            ".",
            "",
            "a\\b",
            "C:b",
            "a\0b",
            "a\nb",
            "\ud800",
        )
    ),
    (setting("tokens", "file", to="../tokenizer.json"), "is not a plain file name"),
    (setting("files", "../x", to={"bytes": 1, "sha256": ""}), "'../x' is not a plain file name"),
    (setting("files", "decode.onnx", "bytes", to="1"), "files.bytes is of a wrong type"),
    (setting("bundle_id", to="0" * 32), "is altered"),
    (setting("files", "decoder.data", "sha256", to="0" * 64), "is altered"),
    (setting("model", "context_length", to=4096), "is altered"),
]

"""Defaults from generation_config.json, compared with what transformers reads from the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from paligemma_onnx.export.bundle.generation_config import (
    MAX_NEW_TOKENS,
    SAMPLING_TEMPERATURE,
    SAMPLING_TOP_K,
    read_generation_config,
)
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.manifest import compute_bundle_id, read_manifest
from paligemma_onnx.runtime.bundle.schema import GenerationDefaults, Manifest
from paligemma_onnx.runtime.errors import BundleError

VOCAB, CONTEXT = 1000, 4096
PLAIN = GenerationDefaults(MAX_NEW_TOKENS)


def read(folder: Path, content: dict[str, Any] | None) -> tuple[GenerationDefaults, tuple[str, ...]]:
    if content is not None:
        (folder / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    config = read_generation_config(folder, vocab_size=VOCAB, context_length=CONTEXT)
    return config.defaults, config.notes


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"bos_token_id": 2, "eos_token_id": [1, 107], "pad_token_id": 0, "transformers_version": "4.47.0"},
        {"_from_model_config": True, "cache_implementation": "hybrid", "max_length": 20, "num_beams": 1},
        {"do_sample": False, "temperature": 1.0, "top_k": None, "suppress_tokens": []},
    ],
)
def test_files_that_ask_for_nothing(tmp_path: Path, content: dict[str, Any] | None) -> None:
    assert read(tmp_path, content) == (PLAIN, ())


def test_every_setting_of_transformers_at_its_default(tmp_path: Path) -> None:
    """An old library writes all of them; the defaults of the library ask for nothing."""
    content = GenerationConfig().to_dict() | GenerationConfig._get_default_generation_params()
    defaults, notes = read(tmp_path, content)
    assert notes == ()
    assert replace(defaults, top_k=0) == PLAIN  # top_k 50, which greedy answers do not use


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"max_new_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_new_tokens": 10**6}, {"max_new_tokens": CONTEXT}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"suppress_tokens": [9, 3, 3, -1, VOCAB]}, {"suppress_tokens": (3, 9)}),
        (
            {"do_sample": True},
            {"temperature": SAMPLING_TEMPERATURE, "top_k": SAMPLING_TOP_K},
        ),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 9, "top_p": 0.9},
            {"temperature": 0.6, "top_k": 9, "top_p": 0.9},
        ),
        ({"do_sample": False, "top_k": 9, "top_p": 0.9}, {"top_k": 9, "top_p": 0.9}),
    ],
)
def test_what_is_taken_over(tmp_path: Path, content: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(tmp_path, content) == (replace(PLAIN, **expected), ())
    library = GenerationConfig._get_default_generation_params()
    if content.get("do_sample"):
        stated = GenerationConfig.from_pretrained(tmp_path).to_dict()
        for name in ("temperature", "top_k", "top_p"):
            value = stated.get(name)
            assert getattr(replace(PLAIN, **expected), name) == (library[name] if value is None else value)


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    content = {
        "num_beams": 4,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 2,
        "bad_words_ids": [[5]],
        "max_length": 300,
        "stop_strings": [" ;"],
        "unheard_of": "x",
        "max_new_tokens": 20,
        "temperature": 0.2,
    }
    defaults, notes = read(tmp_path, content)
    assert defaults == replace(PLAIN, max_new_tokens=20)
    text = "\n".join(notes)
    assert len(notes) == 8
    for key, value in content.items():
        if key not in ("max_new_tokens", "temperature"):
            assert f"generation_config.json: {key} {value!r} is not supported" in text
    assert "temperature 0.2 is not used, because do_sample is not true" in text


@pytest.mark.parametrize(
    "content",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"max_new_tokens": True},
        {"temperature": -1},
        {"temperature": 10**400, "do_sample": True},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.5},
        {"repetition_penalty": 0},
        {"suppress_tokens": 5},
        {"suppress_tokens": ["a"]},
        {"do_sample": "yes"},
    ],
)
def test_values_out_of_range(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointError, match=rf"generation_config\.json: {next(iter(content))} is .*, expected"
    ):
        read(tmp_path, content)


def test_the_manifest_without_settings_is_as_before(shipped_bundle: Path, tmp_path: Path) -> None:
    """Only settings that differ from the defaults are written, and each one is part of the bundle's id."""
    manifest = read_manifest(shipped_bundle)
    stored = json.loads((shipped_bundle / "manifest.json").read_text(encoding="utf-8"))["generation"]
    assert stored == {"max_new_tokens": manifest.generation.max_new_tokens}
    changed = replace(
        manifest, generation=replace(manifest.generation, temperature=0.5, suppress_tokens=(3, 9))
    )
    assert rewritten(changed, tmp_path).generation == changed.generation
    with pytest.raises(BundleError, match="temperature, top_k or top_p is out of its range"):
        rewritten(replace(manifest, generation=replace(manifest.generation, top_p=2.0)), tmp_path)
    with pytest.raises(BundleError, match="outside the vocabulary"):
        rewritten(
            replace(manifest, generation=replace(manifest.generation, suppress_tokens=(10**6,))), tmp_path
        )


def rewritten(manifest: Manifest, folder: Path) -> Manifest:
    """Write a manifest with its new id and read it."""
    signed = replace(manifest, bundle_id=compute_bundle_id(manifest))
    (folder / "manifest.json").write_text(signed.to_json(), encoding="utf-8")
    return read_manifest(folder)

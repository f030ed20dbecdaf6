"""`validate --html` writes a page for a sound and for a wrong bundle, completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from command_line import CommandResult, run_in_process
from damage import copy_folder, edit_tensors
from PIL import Image
from report_schema import SCHEMA, reject_constant

from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation.self_check import build_validation_inputs, synthetic_image
from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.runtime.atomic_file import write_atomically
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.cli.output_image import output_file
from paligemma_onnx.runtime.errors import OptionError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

Folders = Callable[[str], Path]
Validate = Callable[..., CommandResult]
CASE = "gemma_one_kv_head"
EMBEDDING = "language_model.model.embed_tokens.weight"


@pytest.fixture
def validate(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> Validate:
    def run(checkpoint: Path, *options: object) -> CommandResult:
        return run_in_process(
            capsys, "validate", bundle(CASE), "--checkpoint", checkpoint, "--steps", "2", *options
        )

    return run


def test_a_sound_bundle(validate: Validate, checkpoint: Folders, bundle: Folders, tmp_path: Path) -> None:
    image, report = tmp_path / "a <b> & c.png", tmp_path / "report.html"
    Image.new("RGB", (900, 300), "red").save(image)
    report.write_text("an older report")
    options = ("--html", report, "--json", "--image", image, "--prompt", "detect <b>")
    result = validate(checkpoint(CASE), *options)
    assert result.code == 0
    data = json.loads(result.out, parse_constant=reject_constant)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert data["images"] == [{"name": str(image), "width": 900, "height": 300}]
    assert [answer["prompt"] for answer in data["answers"]] == ["detect <b>"]
    assert data["files"] == json.loads((bundle(CASE) / "manifest.json").read_text())["files"]
    tokenizer = PromptTokenizer.load(bundle(CASE) / "tokenizer.json")
    ids = data["comparison"]["free_runs"][0]["reference"]
    stop = next((index for index, token in enumerate(ids) if token == tokenizer.eos_id), None)
    assert data["answers"][0]["reference"]["text"] == tokenizer.decode(ids[:stop])
    text = report.read_text(encoding="utf-8")
    for content in (
        "✓ Passed",
        data["bundle_id"],
        "detect &lt;b&gt;",
        "a &lt;b&gt; &amp; c.png",
        "900 x 300",
    ):
        assert content in text
    assert all(spec["sha256"] in text for spec in data["files"].values())
    assert sorted(tmp_path.iterdir()) == [image, report]


@pytest.fixture
def other(checkpoint: Folders, tmp_path: Path) -> Path:
    """A checkpoint whose embedding has its rows in another order, so that it predicts other tokens."""
    folder = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")
    edit_tensors(folder, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING].roll(5, 0)}))
    return folder


def test_a_wrong_bundle_gets_its_page(
    validate: Validate, other: Path, bundle: Folders, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    result = validate(other, "--html", report, "--json")
    assert result.code == 6
    data: Any = json.loads(result.out, parse_constant=reject_constant)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert data["passed"] is False
    assert data["problem"] in result.error
    text = report.read_text(encoding="utf-8")
    assert "✗ FAILED" in text
    assert "language_model.embed_tokens.weight" in text
    # The margin is computed from the logits of the torch model.
    manifest, source = read_manifest(bundle(CASE)), open_source(other)
    tokenizer = PromptTokenizer.load(bundle(CASE) / manifest.tokens.file)
    prompts = tuple(answer["prompt"] for answer in data["answers"])
    pixels = synthetic_image(manifest.image.size)[None]
    inputs = build_validation_inputs(manifest, tokenizer, pixels, prompts, 2)
    model = load_model(source.config, source.checkpoint)
    with torch.inference_mode():
        features = model.encode_image(torch.from_numpy(pixels)).expand(len(prompts), -1, -1)
        ids, lengths = torch.from_numpy(inputs.input_ids), torch.from_numpy(inputs.text_lengths)
        logits, _ = model.prefill(ids, features, lengths)
    at_once = [run for run in data["comparison"]["free_runs"] if run["diverged_at"] == 0]
    assert at_once
    for run in at_once:
        scores = logits[run["row"]]
        margin = float(scores[run["reference"][0]] - scores[run["bundle"][0]])
        assert run["margin"] == pytest.approx(margin, rel=1e-4)
        assert data["answers"][run["row"]]["divergence_point"]["margin"] == run["margin"]


@pytest.mark.parametrize("name", ["absent/report.html", ".", "bundle", "x" * 300, "/dev/null"])
def test_a_place_that_takes_no_page_is_told_at_once(validate: Validate, tmp_path: Path, name: str) -> None:
    """The option is refused before the checkpoint is read: here the error is not that it does not exist."""
    (tmp_path / "bundle").mkdir()
    result = validate(tmp_path / "no checkpoint", "--html", tmp_path / name)
    assert (result.code, result.out) == (2, "")
    assert "choose another --html" in result.error
    assert os.listdir(tmp_path) == ["bundle"]  # noqa: PTH208
    assert Path("/dev/null").is_char_device()


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    report, link = tmp_path / "report.html", tmp_path / "link.html"
    report.write_text("old")
    link.symlink_to(report)

    def fail() -> None:
        with write_atomically(link):
            assert len(list(tmp_path.iterdir())) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(tmp_path.iterdir()) == [link, report]
    assert report.read_text() == "old"
    with write_atomically(link) as file:
        file.write("new ü".encode())
    assert sorted(tmp_path.iterdir()) == [link, report]
    assert link.is_symlink()
    assert report.read_text(encoding="utf-8") == "new ü"
    with pytest.raises(OptionError, match="choose another --html"), output_file(Path("a\0b"), "--html"):
        pass

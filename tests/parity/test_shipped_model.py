"""The shipped model: its size, its files, and its scores on scenes that were not used in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import run_in_process
from paths import ROOT
from PIL import Image

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.detection.parsing import parse_answer
from training.evaluate import HELD_OUT_SPLIT, SEEN_SPLIT, main, open_model, prompts_for
from training.recipe import FULL
from training.scenes import render_scene

pytestmark = pytest.mark.slow

MAX_BYTES = 12_000_000  # of all files
SCENES = 40  # scored; a quarter of them has a held-out pair


def test_it_is_small() -> None:
    with shipped_model() as folder:
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert sum(files.values()) <= MAX_BYTES
    assert files.keys() >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "mask_decoder.npz",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    }


def test_its_scores_come_from_scenes_it_has_not_seen() -> None:
    splits = [FULL.train, FULL.held_out, SEEN_SPLIT, HELD_OUT_SPLIT]
    for index, split in enumerate(splits):
        for other in splits[:index]:
            assert split.first >= other.first + other.count or other.first >= split.first + split.count
    assert (FULL.train.combinations, HELD_OUT_SPLIT.combinations) == ("seen", "held-out")
    assert SEEN_SPLIT.count + HELD_OUT_SPLIT.count == 1000


def test_it_is_scored(shipped_bundle: Path, tmp_path: Path) -> None:
    """The limits are below the published scores, because the command scores only a few scenes here."""
    arguments = [str(shipped_bundle), "--scenes", str(SCENES), "--json", str(tmp_path / "scores.json")]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert document["seeds"] == {"seen": [10_000_000, 10_000_030], "held-out": [11_000_000, 11_000_010]}
    assert document["precision"] == "fp32"
    scores = document["scores"]["all"]
    assert scores["answers"] >= 0.9
    assert scores["captions"] >= 0.8
    assert scores["detection F1 at IoU 0.5"] >= 0.85
    assert scores["mask mean IoU"] >= 0.75
    assert f"| captions | {scores['captions']:.3f} |" in result.output


def test_a_checkpoint_is_asked_as_a_bundle_is(shipped_bundle: Path) -> None:
    with shipped_model() as folder:
        checkpoint, bundle = open_model(folder), open_model(shipped_bundle)
        assert (checkpoint.manifest.bundle_id, bundle.manifest.bundle_id != "") == ("", True)
        for scene_prompt in prompts_for(render_scene(HELD_OUT_SPLIT.first, "held-out")):
            image, prompt = Image.fromarray(scene_prompt.rendered.pixels), scene_prompt.example.prompt
            expected, actual = (model.generate(image, prompt) for model in (checkpoint, bundle))
            assert actual.token_ids == expected.token_ids


def test_the_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every answer is correct for the scene; boxes are compared to 0.03 of the image side."""
    output_image = tmp_path / "found.png"
    result = run_in_process(capsys, "demo", "--output", tmp_path / "kept", "--picture", output_image)
    assert result.code == 0
    lines = result.out.splitlines()
    expected = json.loads((ROOT / "tests" / "golden" / "demo.json").read_text(encoding="utf-8"))
    for prompt, text in expected.items():
        (line,) = [line for line in lines if line.startswith(f"{prompt!r}: ")]
        answer = line.removeprefix(f"{prompt!r}: ").strip("'")
        if "<loc" in text:
            objects, detections = parse_answer(text).objects, parse_answer(answer).objects
            assert [detection.label for detection in detections] == [item.label for item in objects]
            for item, detection in zip(objects, detections, strict=True):
                assert detection.box.pixels(1, 1) == pytest.approx(item.box.pixels(1, 1), abs=0.03)
        else:
            assert answer == text
    assert result.err.count("tokens at") == len(expected)
    assert "not photographs" in lines[-2]
    assert f"`paligemma-onnx web {tmp_path / 'kept' / 'bundle'} --serve`" in lines[-1]
    with Image.open(output_image) as image:
        assert image.size == (672, 672)
    assert PaliGemma.load(tmp_path / "kept" / "bundle").generate(output_image, "caption en").text


@pytest.mark.parametrize(
    ("name", "words"), [("absent/found.png", "absent"), ("found.nothing", "found.nothing")]
)
def test_a_demo_that_cannot_draw_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, words: str
) -> None:
    result = run_in_process(capsys, "demo", "--picture", tmp_path / name)
    assert result.code == 2
    assert words in result.error

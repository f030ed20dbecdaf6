"""The examples: the command in the header of each runs as it stands, on the included model."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import block_imports
from example_runs import EXAMPLES, FOLDER, commands, run_example
from paths import GOLDEN, ROOT, SCENE

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.graphs.model_runner import Array
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

ANSWERS = json.loads(
    (GOLDEN / "demo.json").read_text(encoding="utf-8")
)  # correct ones about SCENE, by prompt
# Runs the program with its arguments, then answers the cases of the last argument.
BARE = """
import json, runpy
from pathlib import Path
cases = json.loads(sys.argv.pop())
del sys.argv[0]
bundle = Path(sys.argv[1])
answer = runpy.run_path(sys.argv[0], run_name="__main__")["answer"]
print("END")
for image, prompt in cases:
    print(answer(bundle, image, prompt)[0])
"""
NEEDS_TRACT = pytest.mark.skipif(find_spec("tract") is None, reason="tract is not installed")
MIN_LINES, MAX_LINES = 15, 60  # of an example; the maximum is without the header and empty lines


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_header_says_how_to_run_it(path: Path) -> None:
    assert commands(path), "the header has no indented command"
    assert {f"examples/{path.name}", f"examples.{path.stem}"} & {*commands(path)[0]}
    source = path.read_text(encoding="utf-8")
    code = source.split('"""', 2)[-1] if path.suffix == ".py" else source
    assert len(source.splitlines()) >= MIN_LINES
    assert len([line for line in code.splitlines() if line]) <= MAX_LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_public_names_only(path: Path) -> None:
    imported = re.findall(r"(?:from|import) (paligemma_onnx[.\w]*)", path.read_text(encoding="utf-8"))
    assert {*imported} <= {"paligemma_onnx.runtime"}


def test_fine_tuning_page_has_the_commands_of_the_headers() -> None:
    page = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    shown = [shlex.split(line) for line in page.splitlines() if line.startswith("python ")]
    names = ("fine_tune_data.py", "fine_tune.py", "fine_tune_scores.py")
    assert shown == [command for name in names for command in commands(FOLDER / name)]


def test_readme_lists_the_examples() -> None:
    listed = re.findall(r"\]\((\w+\.(?:py|sh))\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[NEEDS_TRACT] if path.name == "tract_graphs.py" else [], id=path.name)
        for path in EXAMPLES
        if "sys.exit(__doc__)" in path.read_text(encoding="utf-8")
    ],
)
def test_without_arguments_an_example_prints_its_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(SystemExit, match=r"python examples/"):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ANSWERS["caption en"]),
        ({"PROMPT": "answer en what does it say?", "DO_SAMPLE": "true", "TOP_P": "0.1"}, "door"),
        ({"MAX_TOKENS": "1", "DEVICE": "cpu", "PROMPT": "answer en how many objects are there?"}, "4"),
    ],
)
def test_inference_script(clone: Path, settings: dict[str, str], expected: str) -> None:
    """Settings come from the variables at the top or from the environment."""
    first, second = commands(FOLDER / "inference.sh")
    assert (first, second[-2:]) == (["bash", "examples/inference.sh"],) * 2
    result = subprocess.run(
        first, env=os.environ | settings, cwd=clone, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{expected}\n"


@pytest.mark.usefixtures("clone")
def test_caption(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("broken.png").write_bytes(b"not an image")
    out, err = run_example("caption.py", monkeypatch, capfd, "broken.png", "tests/golden/seen-12000000.png")
    assert out.splitlines() == [
        f"export/demo/scene.png: {ANSWERS['caption en']}",
        "tests/golden/seen-12000000.png: a dotted pink triangle and a green square",
    ]
    assert err.startswith("skipped: broken.png")


@pytest.mark.usefixtures("clone")
def test_stream(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run_example("stream.py", monkeypatch, capfd)
    text, summary = out.splitlines()
    assert text == ANSWERS["caption en"]
    assert re.fullmatch(r"\d+ tokens, stop; the first after [\d.]+ s, then \d+ per second", summary)


@pytest.mark.usefixtures("clone")
def test_stream_stops_at_the_time_limit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("threading.Timer.start", lambda timer: timer.function())  # the time is over at once
    out, _ = run_example("stream.py", monkeypatch, capfd)
    assert out.startswith("\n0 tokens, cancelled")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each run of the vision encoder adds its number of images."""
    counts = list[int]()
    encode = OnnxModelRunner.encode_image

    def counting(runner: OnnxModelRunner, pixels: Array, cancel: Cancellation) -> DeviceTensor:
        counts.append(len(pixels))
        return encode(runner, pixels, cancel)

    monkeypatch.setattr(OnnxModelRunner, "encode_image", counting)
    return counts


@pytest.mark.usefixtures("clone")
def test_questions_encode_the_image_once(
    model: PaliGemma, encoded: list[int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = run_example("questions.py", monkeypatch, capfd)
    prompts = commands(FOLDER / "questions.py")[0][4:]
    assert out.splitlines() == [f"{prompt} -> {ANSWERS[prompt]}" for prompt in prompts]
    assert encoded == [1]
    assert re.match(r"the image was encoded in \d+ ms", err)
    opened = model.open(SCENE)
    assert [model.generate(opened, prompt).text for prompt in prompts[:2]] == ["4", "door"]
    assert encoded == [1, 1, 1]  # as the header says, separate calls encode it again


def test_folder_to_parquet(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = run_example("folder_to_parquet.py", monkeypatch, capfd)
    table = pq.read_table([*(clone / "captions").glob("*.parquet")])
    scenes = sorted(path.name for path in GOLDEN.glob("*.png"))
    assert sorted(table["path"].to_pylist()) == scenes
    assert f"{len(scenes)} answers, 0 failed rows" in out
    assert "seen-12000000.png: a dotted pink triangle and a green square\n" in out


@pytest.mark.slow
@pytest.mark.usefixtures("clone")
def test_folder_to_parquet_keeps_going_after_a_broken_image(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("images").mkdir()
    Path("images", "broken.png").write_bytes(b"not an image")
    Path("images", "scene.png").symlink_to(SCENE)
    monkeypatch.setattr(sys, "argv", ["", "demo-output/bundle", "images", "caption en", "out"])
    runpy.run_path("examples/folder_to_parquet.py", run_name="__main__")
    assert "1 answers, 1 failed rows" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["", "missing", "images", "caption en", "out"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path("examples/folder_to_parquet.py", run_name="__main__")
    assert caught.value.code == 4  # no bundle


def bare_answers(bundle: Path, cases: list[tuple[str, str]]) -> list[list[int]]:
    """Return the ids of bare_graphs.py in a process that cannot import the package."""
    blocked = block_imports("paligemma_onnx", "torch", "transformers", "onnx")
    arguments = ["examples/bare_graphs.py", str(bundle), *cases[0], json.dumps(cases[1:])]
    out = subprocess.check_output([sys.executable, "-c", blocked + BARE, *arguments], text=True)
    first, _, others = out.partition("\nEND\n")
    return [json.loads(line) for line in (first.splitlines()[0], *others.splitlines())]


@pytest.mark.slow
@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("name", ["openvino_graphs.py", pytest.param("tract_graphs.py", marks=NEEDS_TRACT)])
def test_other_engines(
    name: str, model: PaliGemma, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = run_example(name, monkeypatch, capfd)
    answer = model.generate(SCENE, "caption en")
    assert out.splitlines() == [str(list(answer.token_ids)), answer.text]


@pytest.mark.slow
@pytest.mark.usefixtures("clone")
def test_bare_graphs_need_no_package(model: PaliGemma) -> None:
    (command, *_) = commands(FOLDER / "bare_graphs.py")
    assert command[:3] == ["python", "examples/bare_graphs.py", "demo-output/bundle"]
    cases = [(command[3], command[4]), *((str(GOLDEN / "drawing.png"), prompt) for prompt in ANSWERS)]
    expected = [list(model.generate(image, prompt).token_ids) for image, prompt in cases]
    assert bare_answers(Path(command[2]), cases) == expected


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact"])
def test_bare_graphs_run_every_precision_of_cpus(rounded: Callable[[str, str], Path], precision: str) -> None:
    """The cache is updated in place; the in-place update is optional for the caller."""
    bundle = rounded("gemma_one_kv_head", precision)
    model = PaliGemma.load(bundle, device="cpu")
    cases = [(str(SCENE), prompt) for prompt in ("a b", "detect a ; b")]
    expected = [list(model.generate(image, prompt).token_ids) for image, prompt in cases]
    assert bare_answers(bundle, cases) == expected
    assert all(expected)

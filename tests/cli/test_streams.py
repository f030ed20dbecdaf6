"""Standard streams that are closed, unread or a terminal, and an environment that is damaged."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MAIN, start_command
from damage import copy_folder, edit_manifest, flip_bit
from image_files import encode
from paths import ROOT, SCENE
from pseudo_terminal import Terminal
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma

CAPTION = "the word door"  # end of the caption of SCENE
ESCAPE = "\x1b]0;title\x07\x1b[31m"

pytestmark = pytest.mark.slow


def closed(*descriptors: int) -> str:
    """Return code that runs the rest of the code in a process without these standard streams."""
    return (
        "import os, sys\n"
        "if len(sys.argv) < 2 or sys.argv[1] != '--again':\n"
        f"    for number in {descriptors}: os.close(number)\n"
        "    os.execv(sys.executable, [sys.executable, '-c', CODE, '--again', *sys.argv[1:]])\n"
        "sys.argv.pop(1)\n"
    )


# A library in C that prints to stderr.
NOISE = """
def print_noise(event, arguments):
    if event == "import" and arguments[0].startswith("onnxruntime"):
        try:
            os.write(2, b"a message of a library")
        except OSError:
            pass
sys.addaudithook(print_noise)
"""


def run_without(descriptors: tuple[int, ...], *arguments: object) -> tuple[int, bytes]:
    """Run a command without some of the standard streams; return its exit code and stdout."""
    code = closed(*descriptors) + NOISE + MAIN
    process = start_command(*map(str, arguments), before=f"CODE = {code!r}\n" + closed(*descriptors))
    out, _ = process.communicate(timeout=HANG)
    return process.returncode, out


@pytest.mark.parametrize("descriptors", [(2,), (1, 2), (0, 1, 2), (0,)])
def test_an_output_file_gets_no_other_output(
    shipped_bundle: Path, tmp_path: Path, descriptors: tuple[int, ...]
) -> None:
    drawn, expected = tmp_path / "drawn.png", tmp_path / "expected.png"
    command = ("detect", "--model", shipped_bundle, "--image", SCENE, "circle", "--draw")
    code, out = run_without(descriptors, *command, drawn)
    assert (code, bool(out)) == (0, 1 not in descriptors)
    assert run_without((), *command, expected)[0] == 0
    assert drawn.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("descriptors", [(2,), (0, 1, 2)])
def test_batch_without_streams(shipped_bundle: Path, tmp_path: Path, descriptors: tuple[int, ...]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(SCENE.read_bytes())
    command = ("batch", "--model", shipped_bundle, "--input", images, "--prompt", "caption en")
    assert run_without(descriptors, *command, "--output", tmp_path / "out")[0] == 0
    (part,) = (tmp_path / "out").glob("part-*.jsonl")
    assert json.loads(part.read_text())["text"].endswith(CAPTION)


@pytest.mark.full
@pytest.mark.parametrize("command", ["export", "validate", "demo"])
def test_export_commands_without_streams(shipped_bundle: Path, tmp_path: Path, command: str) -> None:
    checkpoint = ROOT / "export" / "demo" / "paligemma-scenes"
    arguments: dict[str, tuple[object, ...]] = {
        "export": (checkpoint, "--output", tmp_path / "bundle", "--no-validate"),
        "validate": (shipped_bundle, "--checkpoint", checkpoint, "--steps", 1),
        "demo": ("--picture", tmp_path / "demo.png"),
    }
    assert run_without((1, 2), command, *arguments[command])[0] == 0


def run_in_shell(script: str, *arguments: object) -> int:
    """Run a bash script, in which `run` is the command line, with pipefail; return its exit code."""
    function = f"set -o pipefail; run() {{ {sys.executable} -c 'import sys{MAIN}' \"$@\"; }}; "
    command = ["bash", "-c", function + script, "bash", *map(str, arguments)]
    return subprocess.run(command, timeout=HANG, capture_output=True, check=False).returncode


def test_an_unread_progress_does_not_change_the_result(shipped_bundle: Path, tmp_path: Path) -> None:
    damaged = copy_folder(shipped_bundle, tmp_path / "damaged")
    flip_bit(damaged / "decoder.data")
    for script in (
        'run verify "$1" 2> >(exit 0)',
        'run verify "$1" 2>&1 | head -1',
        'run verify "$1" 2>/dev/full',
        'run verify "$1" 2>&-',
        'run --debug verify "$1" 2> >(exit 0)',
    ):
        assert run_in_shell(script, damaged) == 4, script
        assert run_in_shell(script, shipped_bundle) == 0, script
    statistics = 'run generate --model "$1" --image "$2" --stats "caption en" 2> >(exit 0)'
    assert run_in_shell(statistics, shipped_bundle, SCENE) == 0


def test_an_unread_result_does_not_change_the_exit_code(shipped_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_text("not an image")
    batch = 'run batch --json --model "$1" --input "$2" --output "$3" --prompt "caption en" > >(exit 0)'
    assert run_in_shell(batch, shipped_bundle, images, tmp_path / "out") == 7
    generate = 'run generate --model "$1" --image "$2" "caption en" | head -c 1'
    assert run_in_shell(generate, shipped_bundle, SCENE) == 0
    assert run_in_shell("run --help | head -1") == 0
    full = 'run generate --model "$1" --image "$2" "caption en" > /dev/full'
    assert run_in_shell(full, shipped_bundle, SCENE) == 5
    named = full + ' 2> >(grep -q "^error: stdout: the disk" && touch "$3")'
    run_in_shell(named + "; wait $!", shipped_bundle, SCENE, tmp_path / "named")
    assert (tmp_path / "named").exists()


def test_the_file_that_does_not_fit_on_the_disk_is_named(shipped_bundle: Path, tmp_path: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    drawn, output = tmp_path / "drawn.png", tmp_path / "out"
    common = ("--model", shipped_bundle)
    for name, arguments in (
        (drawn, ("detect", *common, "--image", SCENE, "circle", "--draw", drawn)),
        (output, ("batch", *common, "--input", SCENE.parent, "--prompt", "caption en", "--output", output)),
    ):
        process = start_command(*map(str, arguments), before=limit)
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 5
        assert err.decode().splitlines()[-1].startswith(f"error: {name}"), err
        assert "the disk" in err.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff's messages can be discarded on Linux only")
def test_batch_prints_no_lines_of_libtiff(shipped_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    data = bytearray(encode(format="TIFF", compression="tiff_deflate"))
    data[300] ^= 0xFF
    (images / "a.tif").write_bytes(data)
    command = ("batch", "--model", shipped_bundle, "--input", images, "--prompt", "caption en")
    process = start_command(*map(str, command), "--output", str(tmp_path / "out"))
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 7
    assert b"tempfile" not in err


def on_a_terminal(*arguments: object, before: str = "", **variables: str) -> str:
    command = [sys.executable, "-c", before + MAIN, *map(str, arguments)]
    with Terminal(command, os.environ | variables) as terminal:
        return terminal.read_until("text that is never printed")


def test_a_terminal_gets_no_control_characters(shipped_bundle: Path, tmp_path: Path) -> None:
    """Folder names, strings of the manifest, and answers may hold escape sequences."""
    folder = copy_folder(shipped_bundle, tmp_path / f"b{ESCAPE}")
    edit_manifest(folder, lambda manifest: manifest["producer"].update(torch=f"2{ESCAPE}\nforged line"))
    answer = (
        "import paligemma_onnx.runtime.text.tokenizer\n"
        "paligemma_onnx.runtime.text.tokenizer.PromptTokenizer.decode = "
        f"lambda self, ids, *a, **k: 'a{ESCAPE}' * len(ids)\n"
    )
    for arguments, shown in (
        (("verify", folder), "verified"),
        (("inspect", folder), "made with"),
        (("bench", folder, "--rounds", 1, "--tokens", 2, "--batches", 1), "peak memory"),
        (("verify", tmp_path / f"absent{ESCAPE}"), "error: "),
    ):
        text = on_a_terminal(*arguments)
        assert shown in text
        assert "\\x1b[31m" in text, arguments
        assert "\x1b" not in text, arguments
        assert "\x07" not in text, arguments
        assert "\nforged" not in text
    for command in ("generate", "detect"):
        arguments = (command, "--model", shipped_bundle, "--image", SCENE, "circle")
        text = on_a_terminal(*arguments, before=answer)
        assert "\x1b" not in text
        assert "\x07" not in text


@pytest.mark.parametrize(
    "variable",
    [
        *("TQDM_MININTERVAL=abc", "TQDM_NCOLS=x", "TQDM_UNIT_DIVISOR=0", "TQDM_BAR_FORMAT={absent}"),
        *("TQDM_COLOUR=none", "TQDM_DISABLE=1", "TQDM_POSITION=abc", "TQDM_MININTERVAL=nan"),
    ],
)
def test_variables_of_tqdm(shipped_bundle: Path, tmp_path: Path, variable: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(SCENE.read_bytes())
    name, _, value = variable.partition("=")
    command = ("batch", "--model", shipped_bundle, "--input", images, "--prompt", "caption en")
    for _ in range(2):  # the second run passes over the row
        shown = on_a_terminal(*command, "--output", tmp_path / "out", **{name: value})
        assert "0 of 1 failed" in shown
        assert "error" not in shown.replace("errors=", "")
        assert "Traceback" not in shown


def run_where_the_folder_was_deleted(tmp_path: Path, *arguments: object) -> tuple[int, str]:
    gone = tmp_path / "gone"
    gone.mkdir()
    before = "import os, shutil\nshutil.rmtree(os.getcwd())\n"
    process = start_command(*map(str, arguments), before=before, cwd=gone)
    _, err = process.communicate(timeout=HANG)
    return process.returncode, err.decode()


def test_a_deleted_working_folder(shipped_bundle: Path, tmp_path: Path) -> None:
    for command in (("export", "x", "--output", "y"), ("demo",), ("validate", "b", "--checkpoint", "x")):
        code, err = run_where_the_folder_was_deleted(tmp_path, *command)
        assert (code, err) == (2, "error: the current folder was deleted; change to a folder that exists\n")
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.png").write_bytes(SCENE.read_bytes())
    generate = ("generate", "--model", shipped_bundle, "--image", SCENE, "caption en")
    batch = (
        "batch",
        "--model",
        shipped_bundle,
        "--input",
        images,
        "--output",
        output,
        "--prompt",
        "caption en",
    )
    for command in (generate, batch):  # absolute paths
        assert run_where_the_folder_was_deleted(tmp_path, *command)[0] == 0
    code, err = run_where_the_folder_was_deleted(tmp_path, "verify", "bundle")
    assert code in (2, 4)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_prompt_in_a_locale_without_its_characters(shipped_bundle: Path) -> None:
    prompt = "caption é 日本"
    expected = PaliGemma.load(shipped_bundle, device="cpu").generate(SCENE, prompt).text
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ("generate", "--model", shipped_bundle, "--image", SCENE, "--json", prompt)
    process = start_command(*map(str, command), env=os.environ | locale)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["text"] == expected


def test_more_threads_than_processors(shipped_bundle: Path) -> None:
    """256 threads that wait actively would take minutes of processor time."""
    command = ("generate", "--model", shipped_bundle, "--image", SCENE, "--threads", 256, "caption en")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start_command(*map(str, command))
    out, _ = process.communicate(timeout=HANG)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out.decode().rstrip().endswith(CAPTION)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30


NO_DESCRIPTORS = """
import os, resource, sys
import onnxruntime
import paligemma_onnx.runtime.paligemma
from paligemma_onnx.runtime import PaliGemma
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
try:
    while True:
        opened.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    PaliGemma.load(sys.argv[1], device="cpu")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_no_file_descriptors_are_left(shipped_bundle: Path) -> None:
    """The bundle is sound, so the message does not advise to export it again."""
    command = [sys.executable, "-c", NO_DESCRIPTORS, str(shipped_bundle)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True).stdout
    advice = "too many open files; close files, or raise the limit (ulimit -n)"
    assert printed == f"ResourceError {shipped_bundle}: {advice}\n"

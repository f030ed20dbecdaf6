"""The folder of a layout: written whole or not at all, equal bytes each time, and told from other folders."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run_in_process
from damage import copy_folder, edit_json
from exporting import RecordingProgress
from fork_server import ForkServer
from paths import SCENE, TESTS

from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.layouts.layout import LAYOUTS
from paligemma_onnx.export.layouts.write_layout import LayoutRequest, export_layout
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.errors import OptionError

Layout = Callable[[str, str, str], Path]
Checkpoint = Callable[[str], Path]
CASE = "gemma2_window"
# Like FAULTS of tests/export/bundle/test_export_faults.py: call `strike` when the export reaches a stage.
FAULTS = """
import os, resource, sys
from pathlib import Path
from paligemma_onnx.export.cli.progress import TerminalProgress as Progress
from paligemma_onnx.export.layouts import write_layout
sys.path.insert(0, {support!r})
from cached_traces import trace_with_cache
write_layout.trace = trace_with_cache(Path({traces!r}))
stage = Progress.stage
def at_stage(text, strike):
    Progress.stage = lambda self, name: (name.startswith(text) and strike(), stage(self, name))
def send(number):
    return lambda: os.kill(os.getpid(), number)
def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file, by path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def export_unchecked(request: LayoutRequest) -> RecordingProgress:
    progress = RecordingProgress()
    export_layout(request, progress, None)
    return progress


@pytest.mark.parametrize("kind", LAYOUTS)
def test_equal_inputs_give_equal_bytes(
    layout: Layout, checkpoint: Checkpoint, tmp_path: Path, kind: str
) -> None:
    expected = contents(layout(CASE, kind, "q4"))
    export_unchecked(LayoutRequest(ExportRequest(checkpoint(CASE), tmp_path / "again"), kind, ("q4",)))
    assert contents(tmp_path / "again") == expected
    assert not any(str(tmp_path).encode() in content for content in expected.values())


def test_outputs_that_are_taken(layout: Layout, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """--force replaces an export of any kind, and nothing that has a file of another origin."""
    output = copy_folder(layout(CASE, "transformers.js", "fp32"), tmp_path / "model")
    before = contents(output)

    def refused(message: str, *, force: bool) -> None:
        request = ExportRequest(checkpoint(CASE), output, force=force)
        with pytest.raises(OptionError, match=message):
            export_unchecked(LayoutRequest(request, "genai"))

    refused("exists already; choose another --output, or replace it with --force", force=False)
    for foreign in ("chat_template.json", "onnx/notes.txt"):
        (output / foreign).write_text("mine")
        refused("which no export wrote, so --force does not replace it", force=True)
        (output / foreign).unlink()
    (output / "paligemma_onnx.json").rename(tmp_path / "record")
    refused("which no export wrote", force=True)
    (tmp_path / "record").rename(output / "paligemma_onnx.json")
    assert contents(output) == before
    replacing = ExportRequest(checkpoint(CASE), output, force=True)
    export_unchecked(LayoutRequest(replacing, "genai"))
    assert contents(output) == contents(layout(CASE, "genai", "fp32"))
    export_unchecked(LayoutRequest(replacing, "transformers.js"))
    assert contents(output) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_bundle_replaces_a_layout(
    layout: Layout, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy_folder(layout(CASE, "transformers.js", "fp32"), tmp_path / "model")
    command = ["export", checkpoint(CASE), "--output", output, "--no-validate"]
    assert run_in_process(capsys, *command).code == 2
    assert run_in_process(capsys, *command, "--force").code == 0
    assert run_in_process(capsys, "verify", output).code == 0
    assert (output / "manifest.json").is_file()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("exports")) as started:
        yield started


def test_interrupted_and_disk_full(
    server: ForkServer, layout: Layout, checkpoint: Checkpoint, trace_cache: Path, tmp_path: Path
) -> None:
    """The old folder stays, and messages name it instead of the temporary folder."""
    output = copy_folder(layout(CASE, "transformers.js", "fp32"), tmp_path / "model")
    before = contents(output)
    faults = FAULTS.format(support=str(TESTS / "support"), traces=str(trace_cache))
    command = ("export", checkpoint(CASE), "--output", output, "--layout", "transformers.js", "--force")
    full = server.run(*command, "--dtype", "q4", before=faults + "at_stage('tracing', limit)")
    assert full.code == 5
    assert full.error.startswith(f"error: {output}: the weights need ")
    for number in (signal.SIGINT, signal.SIGTERM):
        ended = server.run(*command, before=faults + f"at_stage('weights: ', send({number}))")
        assert (ended.code, ended.out) == (128 + number, "")
    killed = server.run(*command, before=faults + "at_stage('writing graphs', send(9))")
    assert killed.code == -signal.SIGKILL
    assert contents(output) == before
    assert server.run(*command, "--no-validate", before=faults).code == 0
    assert contents(output) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_faulty_checkpoint_is_refused_before_anything_is_traced(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")
    edit_json(source / "generation_config.json", lambda settings: settings.update(suppress_tokens="no list"))
    progress = RecordingProgress()
    with pytest.raises(CheckpointError, match="suppress_tokens"):
        export_layout(LayoutRequest(ExportRequest(source, tmp_path / "out"), "genai"), progress, None)
    assert progress.stages == ["reading checkpoint"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_layout_given_to_commands_of_bundles(
    layout: Layout, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    folder = layout(CASE, kind, "fp32")
    for command in (["inspect", folder], ["generate", "--model", folder, "--image", SCENE, "caption en"]):
        result = run_in_process(capsys, *command)
        assert result.code == 4
        assert f"{folder}: is for another tool (`export --layout`), not a bundle" in result.error
    for command in (["export", folder, "--output", tmp_path], ["validate", folder, "--checkpoint", folder]):
        result = run_in_process(capsys, *command)
        assert result.code == 4
        assert "is the result of `export --layout`; name the checkpoint" in result.error
    for options in (["--device", "cuda"], ["--mask-decoder", "masks.npz"]):
        result = run_in_process(capsys, "validate", folder, "--checkpoint", folder, *options)
        assert result.code == 2
        assert "are for bundles; this folder is a layout" in result.error


def test_sampling_of_all_tokens(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A checkpoint that samples without a limit: onnxruntime-genai is greedy if top_k is 1."""
    source = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")
    edit_json(source / "generation_config.json", lambda all_: all_.update(do_sample=True, top_k=0))
    progress = export_unchecked(LayoutRequest(ExportRequest(source, tmp_path / "out"), "genai"))
    assert progress.warnings == []
    search = json.loads((tmp_path / "out" / "genai_config.json").read_text())["search"]
    assert (search["do_sample"], search["top_k"], search["temperature"]) == (True, 0, 1.0)


@pytest.mark.parametrize(("kind", "ignored"), [("transformers.js", "top_p"), ("genai", "suppress_tokens")])
def test_ignored_settings_are_named(checkpoint: Checkpoint, tmp_path: Path, kind: str, ignored: str) -> None:
    source = copy_folder(checkpoint(CASE), tmp_path / "checkpoint")
    settings = {"do_sample": True, "top_p": 0.5, "suppress_tokens": [7]}
    edit_json(source / "generation_config.json", lambda all_: all_.update(settings))
    progress = export_unchecked(LayoutRequest(ExportRequest(source, tmp_path / "out"), kind))
    (warning,) = progress.warnings
    assert f"sets {ignored}, which {kind} ignores" in warning

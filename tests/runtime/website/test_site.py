"""The `web` command writes a whole website or nothing, and refuses what no browser can run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from command_line import CommandResult, run_command, run_in_process
from damage import copy_folder, edit_manifest, flip_bit

from paligemma_onnx.runtime.website.headers import HEADERS
from paligemma_onnx.runtime.website.onnxruntime_web import FILES
from paligemma_onnx.runtime.website.site import MAX_FILE_BYTES, PAGE


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def copy(shipped_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return copy_folder(shipped_bundle, tmp_path / "bundle")


def web(
    capsys: pytest.CaptureFixture[str], bundle: Path, output: Path, packages: Path, *options: str
) -> CommandResult:
    return run_in_process(capsys, "web", bundle, "--output", output, "--packages", packages, *options)


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_website(
    shipped_bundle: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The site has the page, six files of onnxruntime-web, the bundle and `_headers`, and nothing else."""
    ended = web(capsys, shipped_bundle, output, packages)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{output}: a website with ")
    runtime = {f"ort/{name}": f"content of {name}".encode() for name in FILES}
    bundle = {f"bundle/{name}": data for name, data in content(shipped_bundle).items()}
    written = content(output)
    headers = written.pop("_headers").decode()
    assert written == {**content(PAGE), **runtime, **bundle}
    assert headers.splitlines() == ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
    assert all(not path.is_symlink() for path in output.rglob("*"))
    assert sorted(path.name for path in output.parent.iterdir()) == ["project", "site"]


def test_links_become_files(
    copy: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle of symbolic links, as in the cache of the Hugging Face Hub, gives regular files of their own.

    ONNX does not read weights from files with several hard links.
    """
    real = copy.rename(copy.with_name("blobs"))
    copy.mkdir()
    for path in real.iterdir():
        (copy / path.name).symlink_to(path)
    assert web(capsys, copy, output, packages).code == 0
    assert content(output / "bundle") == content(real)
    for path in output.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or path.stat().st_nlink == 1


def test_only_a_website_is_replaced(
    shipped_bundle: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the folder is unchanged, unless --force replaces a website."""
    assert web(capsys, shipped_bundle, output, packages).code == 0
    (packages / "node_modules" / "onnxruntime-web" / "dist" / FILES[0]).write_text("newer")
    before = content(output)
    refused = web(capsys, shipped_bundle, output, packages)
    assert (refused.code, refused.out) == (2, "")
    assert "replace it with --force" in refused.error
    for name in ("notes.txt", "ort/notes.txt", "bundle/notes.txt", "photos/1.html"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("mine")
        refused = web(capsys, shipped_bundle, output, packages, "--force")
        assert (refused.code, refused.out) == (2, "")
        assert f"contains '{name.removesuffix('/1.html')}', which this command did not write" in refused.error
        (output / name).unlink()
    (output / "photos").rmdir()
    assert content(output) == before
    # The source may be the bundle of the website itself.
    assert web(capsys, output / "bundle", output, packages, "--force").code == 0
    assert content(output) == before | {f"ort/{FILES[0]}": b"newer"}
    refused = web(capsys, shipped_bundle, packages, packages, "--force")
    assert "is not a website that this command wrote" in refused.error
    assert (packages / "node_modules").is_dir()
    (output / "ort").rename(packages / "ort")
    refused = web(capsys, shipped_bundle, output, packages, "--force")
    assert "is not a website that this command wrote" in refused.error


@pytest.mark.slow
@pytest.mark.parametrize("force", [True, False])
def test_an_interrupted_run_leaves_nothing(
    shipped_bundle: Path, output: Path, packages: Path, force: bool
) -> None:
    arguments = ("web", str(shipped_bundle), "--output", str(output), "--packages", str(packages), "--force")
    if force:
        assert run_command(*arguments).code == 0
    kept = content(output)
    strike = f"import os, shutil\nshutil.copyfile = lambda *_: os.kill(os.getpid(), {int(signal.SIGINT)})\n"
    ended = run_command(*arguments, before=strike)
    assert (ended.code, ended.out) == (130, "")
    assert content(output) == kept
    assert {path.name for path in output.parent.iterdir()} - {"site"} == {"project"}


def test_a_full_disk_leaves_nothing(
    shipped_bundle: Path,
    output: Path,
    packages: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    ended = web(capsys, shipped_bundle, output, packages)
    assert (ended.code, ended.out) == (5, "")
    assert f"{output}: the disk" in ended.error
    assert [path.name for path in output.parent.iterdir()] == ["project"]


def test_a_damaged_bundle(
    copy: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(copy / "decoder.data")
    ended = web(capsys, copy, output, packages)
    assert (ended.code, ended.out) == (4, "")
    assert "decoder.data is altered" in ended.error
    assert not output.exists()


def test_a_precision_for_gpus(
    copy: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(copy, lambda manifest: manifest["precision"].update(name="bf16", devices=["cuda"]))
    ended = web(capsys, copy, output, packages)
    assert (ended.code, ended.out) == (4, "")
    assert "precision bf16 needs CUDA" in ended.error
    assert "--precision int4-portable" in ended.error


def test_a_file_that_no_browser_can_hold(
    copy: Path, output: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sparse file: a hole of 2 GiB takes no disk. The size is compared before anything is hashed."""
    size = MAX_FILE_BYTES + 1
    edit_manifest(copy, lambda manifest: manifest["files"]["decoder.data"].update(bytes=size))
    os.truncate(copy / "decoder.data", size)
    ended = web(capsys, copy, output, packages)
    assert (ended.code, ended.out) == (4, "")
    assert "decoder.data: has 2,147,483,648 bytes" in ended.error
    assert "--precision int4-portable" in ended.error
    assert "checking" not in ended.err


def test_onnxruntime_web_is_found_as_node_finds_it(
    shipped_bundle: Path,
    output: Path,
    packages: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the current folder and the folders above it. Other versions are refused with the npm command."""
    deep = packages / "src" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert run_in_process(capsys, "web", shipped_bundle, "--output", output).code == 0

    def refused(message: str) -> None:
        ended = run_in_process(capsys, "web", shipped_bundle, "--output", output, "--force")
        assert (ended.code, ended.out) == (4, "")
        assert message in ended.error
        assert "npm install onnxruntime-web@1.30.0" in ended.error

    package = packages / "node_modules" / "onnxruntime-web"
    (package / "dist" / FILES[-1]).unlink()
    refused(f"has no dist/{FILES[-1]}")
    for text in (json.dumps({"version": "1.29.9"}), "{}", "[]", "half of a"):
        (package / "package.json").write_text(text)
        refused("is not version 1.30 or newer")
    shutil.rmtree(package)
    refused("no onnxruntime-web in node_modules")


def test_something_to_do(shipped_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_in_process(capsys, "web", shipped_bundle)
    assert ended.code == 2
    assert "name a folder with --output" in ended.error

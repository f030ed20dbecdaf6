"""Commands and the Python API write only what the user named, and open no network sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MAIN
from paths import ROOT, SCENE
from side_effects import STRACE, SideEffects, observe

NOTHING = SideEffects(frozenset(), frozenset(), frozenset())
COMMAND = (sys.executable, "-c", MAIN)
API = """
import sys
from paligemma_onnx.runtime import PaliGemma
print(PaliGemma.load(sys.argv[1], device="cpu").generate(sys.argv[2], "caption en").text)
"""
PLANTED = """
import ctypes, os
ctypes.CDLL(None).socket(2, 1, 0)  # AF_INET, SOCK_STREAM
libc = ctypes.CDLL(None)
libc.creat(os.fsencode(os.path.expanduser("~/deviceid")), 0o600)
"""


@pytest.mark.slow
def test_generate(shipped_bundle: Path, tmp_path: Path) -> None:
    command = (*COMMAND, "generate", "--model", str(shipped_bundle), "--image", str(SCENE), "caption en")
    assert observe(command, tmp_path, [], {}) == NOTHING


@pytest.mark.slow
def test_batch(shipped_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(SCENE.read_bytes())
    output = tmp_path / "output"
    command = (
        *(*COMMAND, "batch", "--model", str(shipped_bundle), "--input", str(images)),
        *("--output", str(output), "--prompt", "caption en"),
    )
    assert observe(command, tmp_path, [output], {}) == NOTHING
    assert any(output.iterdir())


@pytest.mark.slow
def test_python_api(shipped_bundle: Path, tmp_path: Path) -> None:
    assert observe((sys.executable, "-c", API, str(shipped_bundle), str(SCENE)), tmp_path, [], {}) == NOTHING


@pytest.mark.full
def test_export(tmp_path: Path) -> None:
    checkpoint, output = ROOT / "export" / "demo" / "paligemma-scenes", tmp_path / "bundles" / "bundle"
    output.parent.mkdir()
    command = (*COMMAND, "export", str(checkpoint), "--output", str(output))
    assert observe(command, tmp_path, [output.parent], {}) == NOTHING
    assert (output / "manifest.json").exists()


def test_the_observers_notice_native_code(tmp_path: Path) -> None:
    effects = observe((sys.executable, "-c", PLANTED), tmp_path, [], {})
    deviceid = str(tmp_path / "home" / "deviceid")
    assert [name.split()[0] for name in effects.files] == [deviceid]
    if STRACE is not None:
        assert effects.writes == {deviceid}
        assert effects.sockets == {"AF_INET"}


@pytest.mark.parametrize(("value", "expected"), [(None, "1"), ("", "1"), ("0", "0"), ("true", "true")])
@pytest.mark.parametrize("package", ["runtime.errors", "export"])
def test_the_variable_is_set_unless_the_user_has_set_it(
    value: str | None, expected: str, package: str
) -> None:
    script = f"import os, paligemma_onnx.{package}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
    printed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert printed.stdout.decode().strip() == expected

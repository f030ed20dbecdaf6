"""Importing and running the runtime loads no heavy package, checked in new interpreters."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT, SCENE

HEAVY = (
    "torch, transformers, onnx, onnx_ir, onnxscript, safetensors, paligemma_onnx.model, paligemma_onnx.export"
)
OPTIONAL = "pyarrow, ray"  # imported only when a command needs them
IMPORT_ALL = f"""
import importlib, pkgutil, sys
import paligemma_onnx.runtime as package
names = [module.name for module in pkgutil.walk_packages(package.__path__, "paligemma_onnx.runtime.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 40, names
assert "paligemma_onnx.runtime.batch.shard_runner" in names
banned = "{HEAVY}, {OPTIONAL}".split(", ")
print([name for name in banned if name in sys.modules])
"""
ANSWER = f"""
import sys
banned = "{HEAVY}, {OPTIONAL}".split(", ")
for name in banned:
    sys.modules[name] = None  # an import raises ModuleNotFoundError
from paligemma_onnx.runtime import PaliGemma
model = PaliGemma.load(sys.argv[1], device="cpu")
print(model.generate(sys.argv[2], "caption en", max_new_tokens=3).token_ids)
"""


def run_script(script: str, *arguments: str, path: Path | None = None) -> str:
    """Return what a script prints in a new interpreter, with `path` first on its module search path."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_all_of_the_runtime_brings_in_nothing_heavy() -> None:
    assert run_script(IMPORT_ALL) == "[]"


@pytest.mark.slow
def test_a_planted_heavy_import_is_noticed(tmp_path: Path) -> None:
    """Import a copy of the runtime, found before the installed package, that imports safetensors."""
    copy = tmp_path / "paligemma_onnx" / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    assert run_script(IMPORT_ALL, path=tmp_path) == "[]"
    with (copy / "diagnostics" / "doctor.py").open("a", encoding="utf-8") as file:
        file.write("\nimport safetensors\n")
    assert run_script(IMPORT_ALL, path=tmp_path) == "['safetensors']"


def test_a_bundle_answers_where_the_export_side_is_absent(bundle: Callable[[str], Path]) -> None:
    ids = ast.literal_eval(run_script(ANSWER, str(bundle("gemma_one_kv_head")), str(SCENE)))
    assert len(ids) == 3

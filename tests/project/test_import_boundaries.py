"""Which part may import what: every import statement is read, and a fresh interpreter is asked."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paths import ROOT

ALLOWED = {
    "model": {"torch", "safetensors"},
    "runtime": {
        *("numpy", "onnxruntime", "PIL", "tokenizers", "click", "dacite", "platformdirs", "filelock", "tqdm"),
        *("pyarrow", "ray"),  # of `batch`, where they are asked for
    },
}
HEAVY = (
    "torch, transformers, onnx, onnx_ir, onnxscript, safetensors, paligemma_onnx.model, paligemma_onnx.export"
)
LATE = "pyarrow, ray"  # never imported before they are asked for
# The command group names the export side's commands in strings and imports them when they are asked for.
NAMES_OTHER_PARTS = {"runtime/cli/main.py"}
OTHERS = ("paligemma_onnx.model", "paligemma_onnx.export", "paligemma_onnx.runtime")
LONGEST_FILE = 300  # lines
NOT_OURS = {"build", "dist", "typings"}  # typings holds links to the packages


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")
                parents = above[: len(above) + 1 - node.level]
                # `from . import a` imports a, `from .a import b` imports a.
                modules = [module] if module else [alias.name for alias in node.names]
                yield from ((node.lineno, ".".join([*parents, name])) for name in modules)
            else:
                yield node.lineno, module


def strangers(folder: Path, part: str) -> list[str]:
    """What the files of a part import or name and should not, each with its place."""
    package, found = f"paligemma_onnx.{part}", []
    for file in sorted(folder.rglob("*.py")):
        tree, shown = ast.parse(file.read_text(encoding="utf-8")), f"{part}/{file.relative_to(folder)}"
        inside = ".".join([package, *file.relative_to(folder).parent.parts])
        for line, name in imports(tree, inside):
            own = name == package or name.startswith(f"{package}.")
            top = name.partition(".")[0]
            if not own and top not in ALLOWED[part] and top not in sys.stdlib_module_names:
                found.append(f"{shown}:{line}: imports {name}")
        if shown not in NAMES_OTHER_PARTS:
            found += [f"{shown}:{line}: {text}" for line, text in hidden_imports(tree, package)]
    return found


def hidden_imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Imports by name: uses of the import system, and strings that name another part."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in ("import_module", "__import__"):
                yield node.lineno, f"uses {name}"
            case ast.Name(id="exec" | "eval" as name):
                yield node.lineno, f"uses {name}"
            case ast.Constant(value=str(text)) if text.startswith(OTHERS) and not text.startswith(package):
                yield node.lineno, f"names {text}"


def test_what_is_installed_does_not_need_what_is_not() -> None:
    """training/ and benchmarks/ stay in the repository."""
    for part in ("model", "export", "runtime"):
        for file in (ROOT / part).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            tops = {name.partition(".")[0] for _, name in imports(tree, f"paligemma_onnx.{part}")}
            assert not tops & {"training", "benchmarks", "tests"}, file


@pytest.mark.parametrize("part", ALLOWED)
def test_every_import_statement_is_allowed(part: str) -> None:
    assert strangers(ROOT / part, part) == []


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        ("import torch", "imports torch"),
        ("def f():\n    from torch.nn import functional", "imports torch.nn"),
        ("try:\n    import transformers as t\nexcept ImportError:\n    t = None", "imports transformers"),
        ("from paligemma_onnx.model import config", "imports paligemma_onnx.model"),
        ("from paligemma_onnx import export", "imports paligemma_onnx"),
        ("from ...export import cli", "imports paligemma_onnx.export"),
        ("from ... import model", "imports paligemma_onnx.model"),
        ("import importlib\nimportlib.import_module('to' + 'rch')", "uses import_module"),
        ("__import__('torch')", "uses __import__"),
        ("PART = 'paligemma_onnx.export.cli.commands'", "names paligemma_onnx.export.cli.commands"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, planted: str, complaint: str) -> None:
    copy = tmp_path / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    assert strangers(copy, "runtime") == []
    with (copy / "generation" / "sampling.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    (found,) = strangers(copy, "runtime")
    assert found.startswith("runtime/generation/sampling.py:")
    assert found.endswith(complaint)


def test_a_planted_import_in_a_folder_below_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    with (copy / "batch" / "rows.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom ...export import cli\nfrom ..errors import BundleError\n")
    (found,) = strangers(copy, "runtime")
    assert found.startswith("runtime/batch/rows.py:")
    assert found.endswith("imports paligemma_onnx.export")


def test_what_a_part_may_import_is_not_complained_about(tmp_path: Path) -> None:
    harmless = (
        "import numpy.linalg\nfrom . import errors\nfrom .errors import BundleError\nimport json.decoder\n"
    )
    (tmp_path / "new.py").write_text(harmless + "from paligemma_onnx.runtime.errors import ImageError\n")
    assert strangers(tmp_path, "runtime") == []


IMPORT_ALL = f"""
import importlib, pkgutil, sys
import paligemma_onnx.runtime as package
names = [module.name for module in pkgutil.walk_packages(package.__path__, "paligemma_onnx.runtime.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 40, names
assert "paligemma_onnx.runtime.batch.shard_runner" in names
banned = "{HEAVY}, {LATE}".split(", ")
print([name for name in banned if name in sys.modules])
"""
ANSWER = f"""
import sys
banned = "{HEAVY}, {LATE}".split(", ")
for name in banned:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from paligemma_onnx.runtime import PaliGemma
model = PaliGemma.load(sys.argv[1], device="cpu")
print(model.generate(sys.argv[2], "caption en", max_new_tokens=3).token_ids)
"""


def fresh(script: str, *arguments: str, path: Path | None = None) -> str:
    """What a script prints in a new interpreter."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_all_of_the_runtime_brings_in_nothing_heavy() -> None:
    assert fresh(IMPORT_ALL) == "[]"


def test_a_planted_heavy_import_is_noticed(tmp_path: Path) -> None:
    """A copy that is found before the installed package, one of whose modules imports what export needs."""
    copy = tmp_path / "paligemma_onnx" / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    assert fresh(IMPORT_ALL, path=tmp_path) == "[]"
    with (copy / "diagnostics" / "doctor.py").open("a", encoding="utf-8") as file:
        file.write("\nimport safetensors\n")
    assert fresh(IMPORT_ALL, path=tmp_path) == "['safetensors']"


def test_a_bundle_answers_where_the_export_side_is_absent(bundle: Callable[[str], Path]) -> None:
    folder = bundle("gemma_one_kv_head")
    ids = ast.literal_eval(fresh(ANSWER, str(folder), str(ROOT / "export" / "demo" / "scene.png")))
    assert len(ids) == 3


def test_no_file_is_long() -> None:
    ours = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name not in NOT_OURS]
    files = [file for folder in ours if not folder.name.startswith(".") for file in folder.rglob("*.py")]
    assert len(files) > 50
    lines = {str(file.relative_to(ROOT)): file.read_bytes().count(b"\n") for file in files}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}

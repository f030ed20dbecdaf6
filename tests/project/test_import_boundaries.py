"""Import rules: allowed libraries per part, package levels, and no cycles.

`pytest -s tests/project/test_import_boundaries.py` prints the package levels and the number of imports.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from import_rules import ALLOWED, ALLOWED_IN_PACKAGE, FOLDERS, LEVELS, NAMES_OTHER_PARTS, PARTS, USES
from paths import ROOT


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute module name of every import, also in functions and under TYPE_CHECKING."""
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


def modules(folder: Path, part: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield path, absolute package name and syntax tree of every file of a part."""
    for file in sorted(folder.rglob("*.py")):
        relative = file.relative_to(folder)
        package = ".".join(["paligemma_onnx", part, *relative.parent.parts])
        yield f"{part}/{relative}", package, ast.parse(file.read_text(encoding="utf-8"))


def forbidden_imports(folder: Path, part: str) -> list[str]:
    """List imports of other parts and of libraries that the part may not use, each with file and line."""
    package, problems = f"paligemma_onnx.{part}", []
    for path, inside, tree in modules(folder, part):
        libraries = ALLOWED[part].union(
            *(names for start, names in ALLOWED_IN_PACKAGE.items() if path.startswith(start))
        )
        for line, name in imports(tree, inside):
            own = name == package or name.startswith((f"{package}.", *USES.get(part, ())))
            top = name.partition(".")[0]
            if not own and top not in libraries and top not in sys.stdlib_module_names:
                problems.append(f"{path}:{line}: imports {name}")
        if path not in NAMES_OTHER_PARTS:
            problems += [f"{path}:{line}: {text}" for line, text in hidden_imports(tree, package)]
    return problems


def hidden_imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield uses of the import system and strings that name another part."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in ("import_module", "__import__"):
                yield node.lineno, f"uses {name}"
            case ast.Name(id="exec" | "eval" as name):
                yield node.lineno, f"uses {name}"
            case ast.Constant(value=str(text)) if text.startswith(PARTS) and not text.startswith(package):
                yield node.lineno, f"names {text}"


def module_graph(folder: Path, part: str) -> dict[str, list[tuple[str, str]]]:
    """Return, per module of a part, the modules of the same part that it imports, with file and line."""
    package = f"paligemma_onnx.{part}."
    files = {
        package + str(file.relative_to(folder).with_suffix("")).replace(os.sep, ".")
        for file in folder.rglob("*.py")
    }
    graph = dict[str, list[tuple[str, str]]]()
    for path, inside, tree in modules(folder, part):
        name = package + path.removeprefix(f"{part}/").removesuffix(".py").replace("/", ".")
        targets = graph.setdefault(name.removeprefix(package), [])
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            for line, module in imports(ast.Module([node], []), inside):
                # `from package import module` imports the module.
                names = {f"{module}.{alias.name}" for alias in node.names} & files or {module} & files
                targets += [(target.removeprefix(package), f"{path}:{line}") for target in sorted(names)]
    return graph


def level_of(module: str, part: str) -> int:
    """Return the level of a module's package, 0 being the lowest; raises LookupError for an unlisted one."""
    package = module.partition(".")[0]
    for level, packages in enumerate(reversed(LEVELS[part])):
        if package in packages:
            return level
    raise LookupError(f"{part}/{package} has no level; add it to LEVELS and to docs/design.md")


def upward_imports(folder: Path, part: str) -> list[str]:
    """List imports of a package on the same or a higher level, each with file and line."""
    problems = []
    for module, targets in module_graph(folder, part).items():
        package = module.partition(".")[0]
        for target, place in targets:
            other = target.partition(".")[0]
            # The public names in runtime/__init__.py come from every level.
            if package in (other, "__init__"):
                continue
            if level_of(target, part) >= level_of(module, part):
                problems.append(f"{place}: {part}/{package} imports {part}/{other}")
    return problems


def cycle(folder: Path, part: str) -> list[str]:
    """Return the modules of an import cycle, or nothing."""
    graph = {name: {target for target, _ in targets} for name, targets in module_graph(folder, part).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("part", LEVELS)
def test_every_import_points_to_a_lower_level(part: str) -> None:
    graph = module_graph(FOLDERS[part], part)
    print(f"\n{part}: {len(graph)} modules, {sum(map(len, graph.values()))} imports between them")
    for level, packages in enumerate(reversed(LEVELS[part])):
        print(f"  level {level}: {', '.join(packages)}")
    upward, circle = upward_imports(FOLDERS[part], part), cycle(FOLDERS[part], part)
    print(f"  upward imports: {len(upward)}, cycles: {int(bool(circle))}")
    assert upward == []
    assert circle == []


@pytest.mark.parametrize("part", LEVELS)
def test_every_package_exists(part: str) -> None:
    listed = {package for packages in LEVELS[part] for package in packages}
    present = {
        path.stem
        for path in FOLDERS[part].iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert listed == present - {"__init__"}


def test_the_design_page_has_the_same_levels() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for part, levels in LEVELS.items():
        (row,) = re.findall(rf"^\| `{FOLDERS[part].name}/` \| (.*) \|$", page, flags=re.MULTILINE)
        shown = [tuple(re.findall(r"`(\w+)`", level)) for level in row.split(">")]
        assert tuple(shown) == levels, part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "planted", "complaint"),
    [
        ("errors.py", "from .cli import main", "runtime/errors imports runtime/cli"),
        (
            "bundle/schema.py",
            "from ..engine.session import open_session",
            "runtime/bundle imports runtime/engine",
        ),
        (
            "text/tokenizer.py",
            "def f():\n    from ..bundle import schema",
            "runtime/text imports runtime/bundle",
        ),
        (
            "graphs/kv_cache.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..paligemma import PaliGemma",
            "runtime/graphs imports runtime/paligemma",
        ),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, planted: str, complaint: str) -> None:
    copy = tmp_path / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    assert upward_imports(copy, "runtime") == []
    with (copy / file).open("a", encoding="utf-8") as opened:
        opened.write(f"\n{planted}\n")
    (problem,) = upward_imports(copy, "runtime")
    assert problem.startswith(f"runtime/{file}:")
    assert problem.endswith(complaint)


def test_a_planted_cycle_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "runtime"
    shutil.copytree(ROOT / "runtime", copy)
    with (copy / "bundle" / "schema.py").open("a", encoding="utf-8") as opened:
        opened.write("\ndef late():\n    from .manifest import read_manifest\n")
    assert {"bundle.schema", "bundle.manifest"} <= set(cycle(copy, "runtime"))


def test_what_is_installed_does_not_need_what_is_not() -> None:
    """training/ and benchmarks/ are not installed."""
    for part in LEVELS:
        for path, inside, tree in modules(FOLDERS[part], part):
            tops = {name.partition(".")[0] for _, name in imports(tree, inside)}
            assert not tops & {"training", "benchmarks", "tests"}, path


@pytest.mark.parametrize("part", ALLOWED)
def test_every_import_statement_is_allowed(part: str) -> None:
    assert forbidden_imports(FOLDERS[part], part) == []


@pytest.mark.slow
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
    assert forbidden_imports(copy, "runtime") == []
    with (copy / "generation" / "sampling.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    (problem,) = forbidden_imports(copy, "runtime")
    assert problem.startswith("runtime/generation/sampling.py:")
    assert problem.endswith(complaint)


def test_what_a_part_may_import_is_not_complained_about(tmp_path: Path) -> None:
    harmless = (
        "import numpy.linalg\nfrom . import errors\nfrom .errors import BundleError\nimport json.decoder\n"
    )
    (tmp_path / "new.py").write_text(harmless + "from paligemma_onnx.runtime.errors import ImageError\n")
    assert forbidden_imports(tmp_path, "runtime") == []

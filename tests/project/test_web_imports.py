"""Import rules of the JavaScript driver: the package levels of runtime/, no cycles, and few libraries."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

from import_rules import LEVELS
from paths import ROOT

SOURCE = ROOT / "web" / "src"
FROM = re.compile(r"^(?:import|export|\}).* from '([^']+)'", re.MULTILINE)
LEVEL = {name: -number for number, names in enumerate(LEVELS["runtime"]) for name in names}
LIBRARIES = {
    "@huggingface/tokenizers",
    "onnxruntime-common",
}  # the latter for types; the caller gives onnxruntime
NODE_ONLY = {"node.ts", "bundle/folder_files.ts"}  # files that may import Node's modules


def imports(file: Path) -> list[str]:
    return FROM.findall(file.read_text(encoding="utf-8"))


def files() -> dict[str, Path]:
    return {file.relative_to(SOURCE).as_posix(): file for file in sorted(SOURCE.rglob("*.ts"))}


def graph() -> dict[str, set[str]]:
    """Return for each file the files that it imports."""
    return {
        name: {
            (file.parent / target).resolve().relative_to(SOURCE).with_suffix(".ts").as_posix()
            for target in imports(file)
            if target.startswith(".")
        }
        for name, file in files().items()
    }


def test_every_import_points_to_a_lower_level() -> None:
    upward = []
    for name, targets in graph().items():
        for target in targets:
            importer, imported = (path.partition("/")[0].removesuffix(".ts") for path in (name, target))
            both_listed = importer in LEVEL and imported in LEVEL
            if both_listed and importer != imported and LEVEL[importer] <= LEVEL[imported]:
                upward.append(f"{name} imports {target}")
    assert upward == []


def test_no_import_cycles() -> None:
    modules = graph()
    assert {target for targets in modules.values() for target in targets} <= modules.keys()
    TopologicalSorter(modules).prepare()


def test_every_package_is_one_of_the_runtime() -> None:
    assert {name.partition("/")[0] for name in files() if "/" in name} <= LEVEL.keys()


def test_libraries() -> None:
    for name, file in files().items():
        used = {target for target in imports(file) if not target.startswith(".")}
        of_node = {target for target in used if target.startswith("node:")}
        assert used - of_node <= LIBRARIES, name
        assert not of_node or name in NODE_ONLY, name

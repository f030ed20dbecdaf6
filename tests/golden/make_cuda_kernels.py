"""Write tests/support/cuda_kernels.json: the operators, versions and types with a CUDA kernel.

    .venv/bin/python tests/golden/make_cuda_kernels.py

Run `make test-cuda` first: the script asks the real CUDA provider in .venv-gpu, on the fake CUDA runtime.
onnxruntime loads all its providers at once and stops if one does not load, so the script also creates empty
libraries with the names of TensorRT's and cuDNN's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"

sys.path.insert(0, str(ROOT))
from tests.fake_cuda.build import COMPILER, build  # noqa: E402  needs the line above

PYTHON = ROOT / ".venv-gpu" / "bin" / "python"
LIST = TESTS / "support" / "cuda_kernels.json"
Types = dict[str, list[str]]  # by type parameter
LAST = (1 << 31) - 1  # of a kernel that takes all later versions
# What the TensorRT provider looks for when it is loaded, by the library it looks in.
IN_NAME = {
    "libnvinfer.so.10": (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
        *("getInferLibVersion", "getPluginRegistry"),
    ),
    "libnvonnxparser.so.10": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    "libcudnn.so.9": ("cudnnCreate", "cudnnDestroy", "cudnnSetStream"),
}
ASK = """
import json
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
kernels = [one for one in state.get_all_opkernel_def() if one.provider == "CUDAExecutionProvider"]
types = [{name: list(kinds) for name, kinds in one.type_constraints.items()} for one in kernels]
found = [(f"{one.domain}::{one.op_name}", *one.version_range, kinds) for one, kinds in zip(kernels, types)]
print(json.dumps([onnxruntime.__version__, found]))
"""


def named(folder: Path) -> None:
    """Libraries whose functions do nothing and give nothing, but for a registry, which is empty."""
    for library, functions in IN_NAME.items():
        source = "static char any[256];\n"
        for one in functions:
            source += f"void *{one}(void) {{ return {'any' if one == 'getPluginRegistry' else '0'}; }}\n"
        (folder / "any.c").write_text(source)
        (folder / "any.map").write_text(f"{library} {{ *; }};\n")
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", f"-Wl,--version-script={folder / 'any.map'}"]
        subprocess.run([COMPILER, folder / "any.c", *options, "-o", folder / library], check=True)


def merged(kernels: list[tuple[str, int, int, Types]]) -> dict[str, list[tuple[int, int | None, Types]]]:
    """By operator; kernels that differ in one parameter's types become one."""
    found: dict[str, list[tuple[int, int | None, Types]]] = {}
    for operator, first, end, constraints in kernels:
        last = None if end == LAST else end
        types = {name: [_short(kind) for kind in kinds] for name, kinds in constraints.items()}
        entries = found.setdefault(operator, [])
        near = (held for *versions, held in entries if versions == [first, last])
        if pair := next(((held, name) for held in near if (name := _difference(held, types))), None):
            held, name = pair
            held[name] = sorted({*held[name], *types[name]})
        else:
            entries.append((first, last, types))
    return dict(sorted(found.items()))


def _short(kind: str) -> str:
    """`tensor(float)` as `float`; what is no tensor stays."""
    return kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind


def _difference(held: Types, types: Types) -> str | None:
    """The only parameter with other types, if there is one."""
    different = [name for name in held if set(held[name]) != set(types.get(name, ()))]
    return different[0] if held.keys() == types.keys() and len(different) == 1 else None


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = build(Path(work))
        named(folder)
        env = os.environ | {"LD_LIBRARY_PATH": str(folder)}
        done = subprocess.run([PYTHON, "-c", ASK], env=env, check=True, capture_output=True, text=True)
    version, kernels = json.loads(done.stdout)
    lines = [f"{json.dumps(name)}: {json.dumps(entries)}" for name, entries in merged(kernels).items()]
    LIST.write_text(f'{{"onnxruntime-gpu": "{version}", "kernels": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()

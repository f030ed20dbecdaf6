"""Write tests/support/cuda_kernels.json: the operators, versions and types that have a CUDA kernel.

    .venv/bin/python tests/golden/make_cuda_kernels.py

Run `make test-cuda` first: the script queries the real CUDA provider in .venv-gpu, on the fake CUDA runtime.
onnxruntime loads all its providers together and fails if one of them cannot be loaded, so the script also
builds stub libraries with the names of TensorRT's and cuDNN's.
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
from tests.fake_cuda.build import COMPILER, build  # noqa: E402  needs the path above

PYTHON = ROOT / ".venv-gpu" / "bin" / "python"
KERNEL_LIST = TESTS / "support" / "cuda_kernels.json"
TypeConstraints = dict[str, list[str]]  # name of a type parameter -> types
Kernel = tuple[int, int | None, TypeConstraints]  # first version, last version (None: all later ones), types
NO_LAST_VERSION = (1 << 31) - 1  # end of the version range of a kernel for all later versions
# Functions that the TensorRT provider looks up when it is loaded, by library.
STUBS = {
    "libnvinfer.so.10": (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
        *("getInferLibVersion", "getPluginRegistry"),
    ),
    "libnvonnxparser.so.10": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    "libcudnn.so.9": ("cudnnCreate", "cudnnDestroy", "cudnnSetStream"),
}
QUERY = """
import json
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
kernels = [kernel for kernel in state.get_all_opkernel_def() if kernel.provider == "CUDAExecutionProvider"]
print(json.dumps([onnxruntime.__version__, [
    (
        f"{kernel.domain}::{kernel.op_name}",
        *kernel.version_range,
        {name: list(types) for name, types in kernel.type_constraints.items()},
    )
    for kernel in kernels
]]))
"""


def build_stubs(folder: Path) -> None:
    """Build libraries whose functions return 0, except getPluginRegistry, which returns an empty registry."""
    for library, functions in STUBS.items():
        source = "static char registry[256];\n"
        for function in functions:
            result = "registry" if function == "getPluginRegistry" else "0"
            source += f"void *{function}(void) {{ return {result}; }}\n"
        (folder / "stub.c").write_text(source)
        (folder / "stub.map").write_text(f"{library} {{ *; }};\n")
        options = [
            *("-shared", "-fPIC", f"-Wl,-soname,{library}"),
            f"-Wl,--version-script={folder / 'stub.map'}",
        ]
        subprocess.run([COMPILER, folder / "stub.c", *options, "-o", folder / library], check=True)


def merge_kernels(kernels: list[tuple[str, int, int, TypeConstraints]]) -> dict[str, list[Kernel]]:
    """Group kernels by operator; merge kernels that differ only in the types of one parameter."""
    merged: dict[str, list[Kernel]] = {}
    for operator, first, end, constraints in kernels:
        last = None if end == NO_LAST_VERSION else end
        types = {name: [_element_type(text) for text in texts] for name, texts in constraints.items()}
        entries = merged.setdefault(operator, [])
        for *versions, entry_types in entries:
            if versions == [first, last] and (name := _only_difference(entry_types, types)):
                entry_types[name] = sorted({*entry_types[name], *types[name]})
                break
        else:
            entries.append((first, last, types))
    return dict(sorted(merged.items()))


def _element_type(text: str) -> str:
    """Return `float` for `tensor(float)`; return other types unchanged."""
    is_tensor = text.startswith("tensor(")
    return text.removeprefix("tensor(").removesuffix(")") if is_tensor else text


def _only_difference(a: TypeConstraints, b: TypeConstraints) -> str | None:
    """Return the name of the parameter with different types, if there is exactly one."""
    different = [name for name in a if set(a[name]) != set(b.get(name, ()))]
    return different[0] if a.keys() == b.keys() and len(different) == 1 else None


def main() -> None:
    """Write the list."""
    with tempfile.TemporaryDirectory() as work:
        folder = build(Path(work))
        build_stubs(folder)
        env = os.environ | {"LD_LIBRARY_PATH": str(folder)}
        result = subprocess.run([PYTHON, "-c", QUERY], env=env, check=True, capture_output=True, text=True)
    version, kernels = json.loads(result.stdout)
    lines = [f"{json.dumps(name)}: {json.dumps(entries)}" for name, entries in merge_kernels(kernels).items()]
    KERNEL_LIST.write_text(
        f'{{"onnxruntime-gpu": "{version}", "kernels": {{\n' + ",\n".join(lines) + "\n}}\n"
    )


if __name__ == "__main__":
    main()

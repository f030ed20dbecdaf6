"""Compile the libraries of the fake CUDA runtime: `python build.py FOLDER`; see README.md.

They have the names and symbol versions of CUDA 13's libraries: onnxruntime's CUDA provider loads them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILER = "cc"
# Sources by library. The first library has the counters; the others are linked with it.
LIBRARIES = {
    "libcudart.so.13": ("device.c", "memory.c", "copies.c", "launches.c"),
    "libcublas.so.13": ("cublas.c",),
    "libcublasLt.so.13": ("cublaslt.c",),
    "libcurand.so.10": ("curand.c",),
    "libcuda.so.1": ("driver.c",),
}
RUNTIME = "libcudart.so.13"
VERSIONED = ("libcudart", "libcublas")  # libraries whose symbols have a version: the library's name
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")


def build(folder: Path) -> Path:
    """Compile the libraries that are missing or older than the sources, and return the folder.

    Raises:
        FileNotFoundError: there is no C compiler.
        subprocess.CalledProcessError: the sources do not compile.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(f"no C compiler: `{COMPILER}` is not on the PATH (Debian: apt install gcc)")
    folder.mkdir(parents=True, exist_ok=True)
    newest_source_ns = max(source.stat().st_mtime_ns for source in SOURCES.iterdir() if source.is_file())
    for name, sources in LIBRARIES.items():
        library = folder / name
        if library.exists() and library.stat().st_mtime_ns > newest_source_ns:
            continue
        options = [*FLAGS, f"-Wl,-soname,{name}"]
        if name.startswith(VERSIONED):
            script = folder / f"{name}.map"
            script.write_text(f"{name} {{ *; }};\n")
            options.append(f"-Wl,--version-script={script}")
        if name != RUNTIME:
            options += [str(folder / RUNTIME), "-Wl,-rpath,$ORIGIN"]
        temporary = folder / f".{name}"
        files = [str(SOURCES / source) for source in sources]
        subprocess.run([COMPILER, *files, *options, "-o", str(temporary)], check=True)
        temporary.replace(library)
    return folder


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1])))
    except FileNotFoundError as error:
        sys.exit(str(error))

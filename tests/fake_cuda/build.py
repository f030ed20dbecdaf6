"""Compiles the libraries of the fake CUDA runtime: `python build.py FOLDER`; see fake_cuda.h.

They have the names and symbol versions of CUDA 13's, so that the engine's provider takes them for those.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILER = "cc"
# name -> sources; the first has the counters, and the others ask it.
LIBRARIES = {
    "libcudart.so.13": ("device.c", "memory.c", "copies.c", "launches.c"),
    "libcublas.so.13": ("cublas.c",),
    "libcublasLt.so.13": ("cublaslt.c",),
    "libcurand.so.10": ("curand.c",),
    "libcuda.so.1": ("driver.c",),
}
RUNTIME = "libcudart.so.13"
VERSIONED = ("libcudart", "libcublas")  # whose symbols carry the name of their library
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")


def build(folder: Path) -> Path:
    """Compile what is not there yet, or older than the sources.

    Raises:
        FileNotFoundError: there is no C compiler.
        subprocess.CalledProcessError: it does not take the sources.
    """
    if shutil.which(COMPILER) is None:
        raise FileNotFoundError(f"no C compiler: `{COMPILER}` is not on the PATH (Debian: apt install gcc)")
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(source.stat().st_mtime_ns for source in SOURCES.iterdir() if source.is_file())
    for name, sources in LIBRARIES.items():
        library = folder / name
        if library.exists() and library.stat().st_mtime_ns > newest:
            continue
        options = [*FLAGS, f"-Wl,-soname,{name}"]
        if name.startswith(VERSIONED):
            script = folder / f"{name}.map"
            script.write_text(f"{name} {{ *; }};\n")
            options.append(f"-Wl,--version-script={script}")
        if name != RUNTIME:
            options += [str(folder / RUNTIME), "-Wl,-rpath,$ORIGIN"]
        unfinished = folder / f".{name}"
        files = [str(SOURCES / source) for source in sources]
        subprocess.run([COMPILER, *files, *options, "-o", str(unfinished)], check=True)
        unfinished.replace(library)
    return folder


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1])))
    except FileNotFoundError as error:
        sys.exit(str(error))

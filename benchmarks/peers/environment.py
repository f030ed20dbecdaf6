"""Create one virtual environment per tool, because the pinned dependencies of the tools conflict."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from ..exports import run_measured

REQUIREMENTS = Path(__file__).parent / "requirements"


def make_environment(work: Path, name: str, log: Path) -> Path:
    """Create the environment of a tool unless it is up to date, and return its Python interpreter.

    Args:
        work: folder in which the environment environments/NAME is created.
        name: name of a file in requirements/, without the suffix.
        log: file for the output of pip.

    Raises:
        ExportFailed: the installation failed; the message is pip's error line.
    """
    folder, required = work / "environments" / name, requirements(name)
    python, stamp = folder / "bin" / "python", folder / required.name
    if stamp.exists() and stamp.read_bytes() == required.read_bytes():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run_measured([sys.executable, "-m", "venv", str(folder)], log)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(required)]
    if "--no-binary" in required.read_text(encoding="utf-8"):
        install.append("--no-cache-dir")  # pip's cache does not distinguish wheels by their build settings
    run_measured(install, log)
    shutil.copyfile(required, stamp)
    return python


def requirements(name: str) -> Path:
    """Return the path of the requirements file with the given name."""
    return REQUIREMENTS / f"{name}.txt"


def pinned(name: str, distribution: str) -> str:
    """Return the name of a distribution and the version that the requirements file pins."""
    line = rf"^{re.escape(distribution)}(?:\[\w+\])?==(\S+)"
    (version,) = re.findall(line, requirements(name).read_text(encoding="utf-8"), re.MULTILINE)
    return f"{distribution} {version}"

"""Virtual environments of the tools, one each: their pinned dependencies conflict."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from ..exports import run_measured

REQUIREMENTS = Path(__file__).parent / "requirements"


def make_environment(work: Path, name: str, log: Path) -> Path:
    """Make a tool's environment unless it is up to date, and return its interpreter.

    Args:
        work: folder that contains environments/NAME.
        name: of a file in requirements/.
        log: receives pip's output.

    Raises:
        ExportFailed: with pip's error line.
    """
    folder, required = work / "environments" / name, requirements(name)
    python, stamp = folder / "bin" / "python", folder / required.name
    if stamp.exists() and stamp.read_bytes() == required.read_bytes():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run_measured([sys.executable, "-m", "venv", str(folder)], log)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(required)]
    if "--no-binary" in required.read_text(encoding="utf-8"):
        install.append("--no-cache-dir")  # pip caches wheels without regard to their build settings
    run_measured(install, log)
    shutil.copyfile(required, stamp)
    return python


def requirements(name: str) -> Path:
    """Return the requirements file of that name."""
    return REQUIREMENTS / f"{name}.txt"


def pinned(name: str, distribution: str) -> str:
    """Return a distribution and its version as the requirements file pins it."""
    line = rf"^{re.escape(distribution)}(?:\[\w+\])?==(\S+)"
    (version,) = re.findall(line, requirements(name).read_text(encoding="utf-8"), re.MULTILINE)
    return f"{distribution} {version}"

"""A tool's own environment: what some of them pin, others cannot live with."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from ..exports import watch

REQUIREMENTS = Path(__file__).parent / "requirements"


def make_environment(work: Path, name: str, log: Path) -> Path:
    """Its interpreter; made anew if what is required has changed.

    Args:
        work: holds environments/NAME.
        name: of a file in requirements/.
        log: takes what pip says.

    Raises:
        ExportFailed: with pip's own line.
    """
    folder, wanted = work / "environments" / name, requirements(name)
    python, stamp = folder / "bin" / "python", folder / wanted.name
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    watch([sys.executable, "-m", "venv", str(folder)], log)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(wanted)]
    if "--no-binary" in wanted.read_text(encoding="utf-8"):
        install.append("--no-cache-dir")  # pip keeps what it built, whatever the settings it was built with
    watch(install, log)
    shutil.copyfile(wanted, stamp)
    return python


def requirements(name: str) -> Path:
    """The file that says what is installed."""
    return REQUIREMENTS / f"{name}.txt"


def pinned(name: str, distribution: str) -> str:
    """Distribution and version, as the file of that name pins it."""
    line = rf"^{re.escape(distribution)}(?:\[\w+\])?==(\S+)"
    (version,) = re.findall(line, requirements(name).read_text(encoding="utf-8"), re.MULTILINE)
    return f"{distribution} {version}"

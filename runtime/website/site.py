"""The files of a website that answers prompts with a bundle, and the folder that contains them.

index.html, ...   the page, built from web/page
ort/              onnxruntime-web
bundle/           the bundle
_headers          HTTP headers for static hosts; only in a folder
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..atomic_file import staged_folder
from ..bundle.integrity import check_hashes
from ..bundle.manifest import MANIFEST, read_manifest
from ..bundle.schema import Manifest
from ..errors import BundleError
from ..resource_errors import translate_resource_errors
from .headers import HEADERS_FILE, headers_file
from .onnxruntime_web import onnxruntime_web_files

PAGE = Path(__file__).with_name("page")
INDEX = "index.html"
BUNDLE = "bundle/"
ORT = "ort/"
# Largest ArrayBuffer that every browser allocates: MAX_BUFFER_BYTES in web/src/bundle/files.ts.
MAX_FILE_BYTES = 2**31 - 1
REMEDY = "export the checkpoint with --precision int4-portable"
# Suffixes of the files in each folder of a site. The names of the page's files differ between releases.
_SUFFIXES = {
    "": (".css", ".html", ".js", ".svg", ".webmanifest"),
    ORT: (".mjs", ".wasm"),
    BUNDLE: (".data", ".json", ".onnx"),
}


def site_files(bundle: Path, packages: Path, progress: Callable[[str], object]) -> dict[str, Path]:
    """Check a bundle and return the files of its website: where each one lies, by its path in the site.

    Args:
        bundle: folder of the bundle.
        packages: folder in which `npm install onnxruntime-web` was run, or a folder below it.
        progress: called with a line of text before each check.

    Raises:
        BundleError: the bundle is incomplete or damaged, or cannot run in a browser.
        ProviderError: onnxruntime-web is not installed.
    """
    manifest = read_manifest(bundle)
    _check_fits_browsers(bundle, manifest)
    runtime = onnxruntime_web_files(packages)
    check_hashes(bundle, manifest, progress)
    page = {path.name: path for path in sorted(PAGE.iterdir())}
    return {
        **page,
        **{f"{ORT}{name}": path for name, path in runtime.items()},
        **{f"{BUNDLE}{name}": bundle / name for name in (MANIFEST, *manifest.files)},
    }


def write_site(files: Mapping[str, Path], output: Path, *, force: bool) -> None:
    """Write a website to a folder, which appears complete or not at all.

    All files are copies. Hard links to the bundle would save its size, but ONNX refuses to read weights from
    files that have several links.

    Args:
        files: the result of `site_files`.
        output: the folder.
        force: replace the folder if it contains a website and nothing else.

    Raises:
        OptionError: the folder exists and may not be replaced, or cannot be written.
        ResourceError: the disk is full.
    """
    with (
        translate_resource_errors(str(output)),
        staged_folder(output, force=force, refusal=_refusal) as staging,
    ):
        for name, source in files.items():
            target = staging / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        (staging / HEADERS_FILE).write_text(headers_file(), encoding="utf-8")


def _check_fits_browsers(bundle: Path, manifest: Manifest) -> None:
    if "cpu" not in manifest.precision.devices:
        name = manifest.precision.name
        raise BundleError(f"{bundle}: precision {name} needs CUDA, which no browser has; {REMEDY}")
    for name, spec in manifest.files.items():
        if spec.bytes > MAX_FILE_BYTES:
            raise BundleError(
                f"{bundle / name}: has {spec.bytes:,} bytes, and browsers load files of at most "
                f"{MAX_FILE_BYTES:,} bytes; {REMEDY}"
            )


def _refusal(entries: Sequence[Path]) -> str | None:
    """Return why a folder is not a website of this package, or None."""
    site = entries[0].parent
    parts = (site / INDEX, site / BUNDLE / MANIFEST, site / ORT)
    if not all(part.exists() for part in parts):
        return "is not a website that this command wrote"
    for folder, suffixes in _SUFFIXES.items():
        for entry in sorted((site / folder).iterdir()):
            known = entry.suffix in suffixes or entry.name == HEADERS_FILE
            if not (entry.is_file() and known) and f"{folder}{entry.name}/" not in _SUFFIXES:
                return f"contains {folder + entry.name!r}, which this command did not write"
    return None

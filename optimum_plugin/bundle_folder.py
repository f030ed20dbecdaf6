"""The folder of a bundle: found, downloaded, exported, or copied."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from huggingface_hub import errors, snapshot_download

from paligemma_onnx.runtime.atomic_file import write_atomically
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, read_manifest
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.errors import BundleError, OptionError, ProviderError
from paligemma_onnx.runtime.resource_errors import translate_resource_errors

# Folder of the bundle in what `save_pretrained` writes. The files of a processor stand outside of it, because
# transformers writes a tokenizer.json that differs from the bundle's.
SUBFOLDER = "onnx"
BUNDLE_FILES = ("*.json", "*.onnx", "*.data")
EXPORT_PATHS = ("mask_decoder", "tokenizer")  # fields of ExportRequest that name a file
EXPORT_OPTIONS = (*EXPORT_PATHS, "base_weights", "force", "strict")


class HubOptions(TypedDict, total=False):
    """Arguments of `huggingface_hub.snapshot_download`."""

    revision: str
    cache_dir: str
    token: bool | str
    local_files_only: bool
    force_download: bool


@dataclass(frozen=True)
class BundleFolder:
    """A folder with a bundle, and the folder with config.json and generation_config.json, if they exist."""

    path: Path
    settings: Path


def find_bundle(model_id: str, hub_options: HubOptions) -> BundleFolder:
    """Return the folder of a bundle. Download it if `model_id` is the id of a repository on the Hub.

    Args:
        model_id: a folder, or `owner/name`.
        hub_options: arguments of the download.

    Raises:
        BundleError: the folder or repository is missing, or holds no bundle.
    """
    folder = Path(model_id)
    if not folder.is_dir():
        folder = _download(model_id, hub_options)
    for path in (folder, folder / SUBFOLDER):
        if (path / MANIFEST).is_file():
            return BundleFolder(path, settings=folder)
    raise BundleError(
        f"{model_id}: has no {MANIFEST}, so it is not a bundle; if it is a checkpoint, pass export=True"
    )


def _download(model_id: str, hub_options: HubOptions) -> Path:
    if Path(model_id).exists():
        raise BundleError(f"{model_id}: is a file; name the folder of the bundle")
    with translate_resource_errors(model_id):
        try:
            return Path(snapshot_download(model_id, allow_patterns=list(BUNDLE_FILES), **hub_options))
        except (errors.HFValidationError, errors.RepositoryNotFoundError):
            raise BundleError(f"{model_id}: no such folder, and no such repository on the Hub") from None
        except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise BundleError(
                f"{model_id}: no such folder, and cannot be downloaded: {first_line}"
            ) from error


def export_bundle(
    checkpoint: str,
    output: str | os.PathLike[str] | None,
    *,
    precision: str,
    adapters: tuple[str, ...],
    validate: bool,
    options: Mapping[str, object],
) -> BundleFolder:
    """Export a checkpoint, as the command `export` does, and return the folder of the bundle.

    Args:
        checkpoint: a folder, the id of a model on the Hub, or an .npz archive.
        output: folder of the bundle; None: a temporary folder.
        precision: a key of `PRECISIONS`.
        adapters: LoRA adapters to merge, each a folder or Hub id, optionally with `:WEIGHT`.
        validate: compare the bundle with the PyTorch model.
        options: EXPORT_OPTIONS by name.

    Raises:
        ProviderError: the extra `export` is not installed.
        CheckpointError, OptionError, ResourceError, MismatchError: as the exporter.
    """
    if unknown := set(options) - set(EXPORT_OPTIONS):
        raise OptionError(f"{min(unknown)} is not an argument of from_pretrained(export=True)")
    try:
        from paligemma_onnx.export.cli.progress import TerminalProgress  # noqa: PLC0415  optional
        from paligemma_onnx.export.exporter import ExportRequest, export  # noqa: PLC0415
        from paligemma_onnx.export.sources.hub import resolve_adapter, resolve_checkpoint  # noqa: PLC0415
        from paligemma_onnx.export.validation.self_check import self_check  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("paligemma_onnx"):
            raise
        raise ProviderError(
            f"export=True needs {error.name}: run `pip install 'paligemma-onnx[cpu,export,optimum]'`"
        ) from error
    folder = _temporary_folder() if output is None else BundleFolder(Path(output), Path(output))
    request = ExportRequest(
        resolve_checkpoint(checkpoint),
        folder.path,
        precision=precision,
        adapters=tuple(map(resolve_adapter, adapters)),
        **{name: Path(str(value)) if name in EXPORT_PATHS else value for name, value in options.items()},  # type: ignore[arg-type]
    )
    with TerminalProgress() as progress:

        def check(staging: Path, manifest: Manifest, source: object) -> object:
            return self_check(staging, manifest, source, progress.stage)  # type: ignore[arg-type]

        export(request, progress, check if validate else None)
    return folder


def _temporary_folder() -> BundleFolder:
    """Return a folder that is deleted with the returned object, or when Python exits."""
    parent = tempfile.mkdtemp(prefix="paligemma-onnx-")
    folder = BundleFolder(Path(parent, "bundle"), Path(parent))
    weakref.finalize(folder, shutil.rmtree, parent, ignore_errors=True)
    return folder


def copy_bundle(folder: Path, output: Path) -> None:
    """Copy the files of a bundle to another folder, which is created, the manifest last.

    Each file is renamed over an existing one, so a process that has a weight file open keeps the old one.

    Raises:
        ResourceError: out of disk space.
    """
    if folder.resolve() == output.resolve():
        return
    manifest = read_manifest(folder)
    output.mkdir(parents=True, exist_ok=True)
    with translate_resource_errors(str(output)):
        for name in (*manifest.files, MANIFEST):
            with (folder / name).open("rb") as source, write_atomically(output / name) as target:
                shutil.copyfileobj(source, target, 16 << 20)  # bytes per read

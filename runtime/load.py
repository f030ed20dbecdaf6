"""Load a bundle: check its files, open its graphs, and read its tokenizer meanwhile."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from .bundle.integrity import check_files
from .bundle.manifest import read_manifest
from .bundle.schema import Manifest
from .engine.devices import Placement, choose_placement
from .engine.thread_pool import thread_pool
from .errors import ProviderError
from .graphs.model_runner import ModelRunner
from .graphs.open_runner import open_runner
from .text.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class LoadedBundle:
    """The parts of a bundle that answer requests."""

    manifest: Manifest
    tokenizer: PromptTokenizer
    runner: ModelRunner


def load_bundle(
    folder: Path, *, device: str, threads: int | None, memory_limit: int | None, engine: str, low_memory: bool
) -> LoadedBundle:
    """Load a bundle. `PaliGemma.load` describes the arguments and errors."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    runs_on = manifest.precision.devices
    placement = choose_placement(
        "cpu" if engine == "openvino" else device,
        threads,
        runs_on=runs_on,
        memory_limit=memory_limit,
        low_memory=low_memory,
    )
    opening = Event()
    with thread_pool(1) as thread:
        try:
            tokenizer = thread.submit(_load_tokenizer, folder / manifest.tokens.file, opening)
            runner = open_runner(folder, manifest, placement, engine, opening.set)
        except ProviderError as error:
            if device != "auto" or placement.device == "cpu" or "cpu" not in runs_on:
                raise
            warnings.warn(f"running on the CPU, since CUDA does not load: {error}", stacklevel=3)
            on_cpu = Placement("cpu", placement.threads, low_memory=low_memory)
            runner = open_runner(folder, manifest, on_cpu, engine, opening.set)
        finally:
            opening.set()  # after an error, too: the thread waits for it
        return LoadedBundle(manifest, tokenizer.result(), runner)


def _load_tokenizer(path: Path, opening: Event) -> PromptTokenizer:
    """Load a tokenizer when the sessions begin to open.

    It keeps Python's lock for most of a second. The import of onnxruntime and the search for prepared graphs
    need the lock, but sessions open without it.
    """
    opening.wait()
    return PromptTokenizer.load(path)

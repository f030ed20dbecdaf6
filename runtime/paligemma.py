"""The Python front: load a bundle, ask about pictures.

model = PaliGemma.load("bundle/")
print(model.generate("photo.jpg", "caption en").text)
for piece in model.stream("photo.jpg", "describe en"): ...
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from .bundle.integrity import check_files
from .bundle.manifest import read_manifest
from .bundle.schema import Manifest
from .detection.detections import Detections, detections, task_prompt
from .engine.devices import Placement, choose_placement
from .engine.prepared_graphs import find_prepared
from .errors import BundleError, ProviderError
from .generation.plan import GenerationBatch, PlannedRequest, plan_batch
from .generation.run import run_batch
from .generation.types import Generation, Images, Options, Request
from .graphs.model_runner import ModelRunner
from .graphs.onnx_runner import NO_MASK_DECODER, OnnxModelRunner
from .image.open import DEFAULT_MAX_PIXELS, ImageInput, open_image
from .image.picture import Picture, open_picture, preprocess_opened
from .resource_errors import translate_resource_errors
from .text.tokenizer import PromptTokenizer


class Stream:
    """One answer as it is written: iterate it for pieces of whole characters, none of them empty."""

    def __init__(self, pieces: Iterator[str], job: GenerationBatch, row: PlannedRequest) -> None:
        self._pieces, self._job, self._row = pieces, job, row

    def __iter__(self) -> Iterator[str]:
        """Hand out the pieces; the graphs run while they are asked for."""
        return self._pieces

    @property
    def result(self) -> Generation:
        """The answer so far; complete when the iteration has ended."""
        return self._job.result(self._row)


class PaliGemma:
    """A loaded bundle. Several threads may ask at the same time."""

    def __init__(
        self, manifest: Manifest, tokenizer: PromptTokenizer, runner: ModelRunner, load_s: float
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.runner = runner
        self.load_s = load_s

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
    ) -> PaliGemma:
        """Open a bundle.

        Args:
            folder: what `paligemma-onnx export` wrote.
            device: `cpu`, `cuda` or `cuda:N`; `auto` takes CUDA when it loads and the bundle is made for it,
                else the CPU, with a warning if CUDA was there.
            threads: for one operator on the CPU; None takes every processor this process may use.
            memory_limit: bytes of the GPU's memory that weights, graphs and caches together may take; what
                steps compute with, which is little, comes beside it. None: all there are.

        Raises:
            OptionError: device, threads or memory_limit is out of range.
            BundleError: the folder is incomplete, damaged or mixed from two exports, or not made for the
                device.
            ProviderError: no engine is installed, or it has not the device asked for.
            ResourceError: out of memory.
        """
        started = time.perf_counter()
        folder = Path(folder)
        with translate_resource_errors(str(folder)):
            manifest = read_manifest(folder)
            check_files(folder, manifest)
            tokenizer = PromptTokenizer.load(folder / manifest.tokens.file)
            runs_on = manifest.precision.devices
            placement = choose_placement(device, threads, runs_on=runs_on, memory_limit=memory_limit)

            def opened(where: Placement) -> ModelRunner:
                if prepared := find_prepared(manifest, where):
                    try:
                        return OnnxModelRunner.open(folder, manifest, where, prepared=prepared)
                    except BundleError:
                        told = f"prepared graphs do not open; run `paligemma-onnx prepare {folder}` again"
                        warnings.warn(told, stacklevel=3)
                return OnnxModelRunner.open(folder, manifest, where)

            try:
                runner = opened(placement)
            except ProviderError as error:
                if device != "auto" or placement.device == "cpu" or "cpu" not in runs_on:
                    raise
                warnings.warn(f"running on the CPU, since CUDA does not load: {error}", stacklevel=2)
                runner = opened(Placement("cpu", placement.threads))
        return cls(manifest, tokenizer, runner, time.perf_counter() - started)

    @property
    def device(self) -> str:
        """Where the graphs run: `cpu`, `cuda` or `cuda:N`."""
        return self.runner.placement.name

    def open(self, image: ImageInput, *, max_image_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
        """Open a picture ahead, in any thread, for `generate`, `stream` and `generate_batch`.

        Raises:
            ImageError: the picture cannot be used.
            OptionError: `max_image_pixels` is not a positive whole number.
            ResourceError: out of memory.
        """
        return open_picture(image, self.manifest.image, max_pixels=max_image_pixels)

    def generate(self, images: Images, prompt: str, **options: Unpack[Options]) -> Generation:
        """Answer a prompt about one picture, or several in reading order.

        Args:
            images: a path, a PIL image, an array uint8[H, W, 3], what `open` gave, or a sequence of these.
            prompt: as PaliGemma was trained: `caption en`, `answer en QUESTION`, `detect A ; B`, ...
            options: see `Options`.

        Raises:
            ImageError: a picture cannot be used.
            PromptError: the prompt cannot be used.
            OptionError: an option is outside its range.
            NumericsError: the graphs answered with values that are not numbers.
            ResourceError: out of memory.
        """
        (generation,) = self.generate_batch([Request(images, prompt)], **options)
        return generation

    def stream(self, images: Images, prompt: str, **options: Unpack[Options]) -> Stream:
        """As `generate`, handing out the text while it is written.

        What is wrong with the request is raised here, what goes wrong while it runs by the iteration.
        """
        job = self._plan([Request(images, prompt)], options)
        pieces = (piece for _, piece in self._run(job) if piece)
        return Stream(pieces, job, job.rows[0])

    def generate_batch(self, requests: Sequence[Request], **options: Unpack[Options]) -> list[Generation]:
        """Answer several requests at once; in fp32 each row is what it would be alone.

        With fewer bits that is so up to rounding: rows share the range of activations, and steps of many
        rows may run through the weights of the prefill graph (the manifest's `precision.wide_batch`).

        Pictures, prompts and the number of pictures may differ. Row r of a sampled batch draws as the
        same request alone would with seed + r.

        Raises:
            As `generate`; one request that cannot be used fails the call before anything runs.
        """
        job = self._plan(requests, options)
        for _ in self._run(job):
            pass
        return [job.result(row) for row in job.rows]

    def detect(
        self, image: ImageInput, labels: str | Sequence[str], **options: Unpack[Options]
    ) -> Detections:
        """Find objects in a picture.

        Args:
            image: a path, a PIL image or an array uint8[H, W, 3].
            labels: what to find: `"cat ; dog"` or `["cat", "dog"]`.
            options: see `Options`; with `constrained` the answer can always be read.

        Raises:
            As `generate`.
        """
        return self._find("detect", image, labels, options)

    def segment(
        self, image: ImageInput, labels: str | Sequence[str], **options: Unpack[Options]
    ) -> Detections:
        """Find objects in a picture, each with its mask.

        Raises:
            BundleError: the bundle has no mask decoder.
            As `detect`.
        """
        if self.manifest.graphs.mask_decoder is None:
            raise BundleError(NO_MASK_DECODER)
        return self._find("segment", image, labels, options)

    def _find(
        self, task: str, image: ImageInput, labels: str | Sequence[str], options: Options
    ) -> Detections:
        asked = task_prompt(task, labels)
        with translate_resource_errors("this request"):
            opened = open_image(image, max_pixels=options.get("max_image_pixels", DEFAULT_MAX_PIXELS))
            picture = preprocess_opened(opened, self.manifest.image)
        generation = self.generate(picture, asked, **options)
        with translate_resource_errors("this request"):
            return detections(generation, opened.rgb, self.runner, masks=task == "segment")

    def _plan(self, requests: Sequence[Request], options: Options) -> GenerationBatch:
        with translate_resource_errors("this request"):
            return plan_batch(
                requests, options, self.manifest, self.tokenizer, device=self.device, load_s=self.load_s
            )

    def _run(self, job: GenerationBatch) -> Iterator[tuple[PlannedRequest, str]]:
        with translate_resource_errors("this request"):
            yield from run_batch(job, self.runner)

"""Public Python API: load a bundle, then ask about images.

Example:
    >>> model = PaliGemma.load("bundle/")
    >>> print(model.generate("photo.jpg", "caption en").text)
    >>> for piece in model.stream("photo.jpg", "describe en"):
    ...     print(piece, end="", flush=True)

Shapes: docs/notation.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from .bundle.schema import Manifest
from .detection.detections import Detections, detections
from .detection.prompts import task_prompt
from .errors import BundleError, OptionError
from .generation.plan import GenerationBatch, PlannedRequest, plan_batch
from .generation.run import run_batch
from .generation.stream import Stream
from .generation.types import Generation, Images, Options, Request
from .graphs.model_runner import ModelRunner
from .graphs.onnx_runner import NO_MASK_DECODER
from .graphs.open_runner import check_engine
from .image.open import DEFAULT_MAX_PIXELS, ImageInput, open_image
from .image.picture import Picture, open_picture, preprocess_opened
from .load import load_bundle
from .resource_errors import translate_resource_errors
from .text.tokenizer import PromptTokenizer


class PaliGemma:
    """A loaded bundle. It is thread-safe: several threads may send requests at the same time.

    Attributes:
        manifest: facts of the bundle, from its manifest.json.
        tokenizer: the bundle's tokenizer.
        runner: the open graphs.
        load_s: seconds that loading took.
    """

    def __init__(
        self, manifest: Manifest, tokenizer: PromptTokenizer, runner: ModelRunner, load_s: float
    ) -> None:
        """Combine the parts of a model. To load a bundle, use `PaliGemma.load`."""
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
        engine: str = "onnxruntime",
        low_memory: bool = False,
    ) -> PaliGemma:
        """Load a bundle.

        Args:
            folder: folder that `paligemma-onnx export` wrote.
            device: `cpu`, `cuda` (the first GPU), `cuda:N` or `auto` (default). `auto` selects CUDA if the
                bundle is made for CUDA and CUDA can be used. Otherwise `auto` selects the CPU, with a
                warning if CUDA is installed but does not load.
            threads: threads per operator on the CPU, 1 to 256. Default None: one per usable processor.
            memory_limit: limit in bytes, at least 1, of the GPU memory for weights, graphs and caches; not
                for the small working memory of the steps. None: no limit. With `cpu` only None is allowed.
            engine: `onnxruntime` (default), or `openvino` for bundles whose cache grows, on the CPU.
            low_memory: with prepared graphs on a CPU, keep the weights of vision and prefill in memory only
                while they run; the first token then takes longer. Default False.

        Raises:
            OptionError: an argument has a wrong type or is outside its range.
            BundleError: the folder is incomplete, damaged, mixed from two exports, or for another device.
            ProviderError: the engine is not installed, or does not support the device.
            ResourceError: out of memory.

        Example:
            >>> model = PaliGemma.load("bundle/", device="cpu", threads=4)
        """
        started = time.perf_counter()
        if not isinstance(folder, str | Path):
            raise OptionError(f"folder is of type {type(folder).__name__}, expected the path of a bundle")
        check_engine(engine, device)
        folder = Path(folder)
        with translate_resource_errors(str(folder)):
            bundle = load_bundle(
                folder,
                device=device,
                threads=threads,
                memory_limit=memory_limit,
                engine=engine,
                low_memory=low_memory,
            )
        load_s = time.perf_counter() - started
        return cls(bundle.manifest, bundle.tokenizer, bundle.runner, load_s)

    @property
    def device(self) -> str:
        """The device that the graphs run on, in the form that `load` takes."""
        return self.runner.placement.name

    def open(self, image: ImageInput, *, max_image_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
        """Return an opened and preprocessed image, for several requests or for another thread.

        Args:
            image: a path or the bytes of a JPEG, PNG, WebP, BMP, GIF or TIFF file, a Pillow image, or an
                array uint8[height, width], [height, width, 1], [height, width, 3] (RGB) or
                [height, width, 4] (RGB and alpha). The first frame of an animated file is used. The EXIF
                orientation is applied.
            max_image_pixels: cap on width times height, at least 1. Default 89,478,485.

        Returns:
            The image for `generate`, `stream` and `generate_batch`.

        Raises:
            ImageError: the image cannot be read or is not accepted.
            OptionError: `max_image_pixels` is not a positive whole number.
            ResourceError: out of memory.

        Example:
            >>> image = model.open("photo.jpg")
            >>> [model.generate(image, prompt).text for prompt in ("caption en", "ocr")]
        """
        return open_picture(image, self.manifest.image, max_pixels=max_image_pixels)

    def generate(self, images: Images, prompt: str, **options: Unpack[Options]) -> Generation:
        """Generate the answer to a prompt about one image, or several in reading order.

        Args:
            images: an image as for `open`, a `Picture`, or a list or tuple of these.
            prompt: text in the form that PaliGemma was trained with, such as `answer en QUESTION`; it may be
                empty. `<loc0123>`, `<seg001>` and a fine-tune's special tokens are tokens. `<image>` (once
                per image) and `<bos>` at the beginning are dropped. Other control tokens are refused.
            options: see `Options`. Decoding is greedy by default.

        Returns:
            The answer. After a cancellation, the answer has the tokens generated so far.

        Raises:
            ImageError: an image cannot be read or is not accepted.
            PromptError: the prompt is not accepted, or does not fit into the context.
            OptionError: an option is unknown or outside its range.
            NumericsError: the graphs computed NaN or infinity.
            ResourceError: out of memory.

        Example:
            >>> model.generate("photo.jpg", "answer en what colour is the car?").text
            'red'
        """
        (generation,) = self.generate_batch([Request(images, prompt)], **options)
        return generation

    def stream(self, images: Images, prompt: str, **options: Unpack[Options]) -> Stream:
        """Generate an answer piece by piece.

        Args:
            images: as for `generate`.
            prompt: as for `generate`.
            options: see `Options`.

        Returns:
            An iterable of pieces of text. This call checks images and prompt; iteration runs the graphs.

        Raises:
            ImageError: an image cannot be read or is not accepted.
            PromptError: the prompt is not valid text, or does not fit into the context.
            OptionError: an option is unknown or outside its range.
            ResourceError: out of memory.
            NumericsError: the graphs computed NaN or infinity. The iteration raises this error.
        """
        batch = self._plan([Request(images, prompt)], options)
        pieces = (piece for _, piece in self._run(batch) if piece)
        return Stream(pieces, batch, batch.requests[0])

    def generate_batch(self, requests: Sequence[Request], **options: Unpack[Options]) -> list[Generation]:
        """Generate the answers to several requests at once.

        Images, prompts and the number of images may differ between requests. In fp32 each answer equals the
        answer to a single request. In other precisions the answers are equal up to rounding: the rows share
        the range of activations, and decode steps of many rows may use the weights of the prefill graph (the
        manifest's `precision.wide_batch`). An invalid request fails the call before any graph runs.

        Args:
            requests: prompts with their images; the list may be empty.
            options: see `Options`. The options apply to all requests. Request r samples like a single request
                with the seed `seed + r`, unless request r has a seed.

        Returns:
            The answers in the order of the requests.

        Raises:
            ImageError: an image cannot be read or is not accepted.
            PromptError: a prompt is not valid text, or does not fit into the context.
            OptionError: an option is unknown or outside its range.
            NumericsError: the graphs computed NaN or infinity.
            ResourceError: out of memory.

        Example:
            >>> requests = [Request(path, "caption en") for path in ("a.jpg", "b.jpg")]
            >>> [answer.text for answer in model.generate_batch(requests, max_new_tokens=20)]
        """
        batch = self._plan(requests, options)
        for _ in self._run(batch):
            pass
        return [batch.result(request) for request in batch.requests]

    def detect(
        self, image: ImageInput, labels: str | Sequence[str], **options: Unpack[Options]
    ) -> Detections:
        """Detect objects in an image.

        Args:
            image: as for `open`.
            labels: objects to detect: `"cat ; dog"`, `["cat", "dog"]` or the prompt `"detect cat ; dog"`.
            options: see `Options`. With `constrained=True` the answer always consists of valid objects.

        Returns:
            The objects with their boxes. Parts of the answer that are not objects are in `warnings`.

        Raises:
            PromptError: no label is given, or a label is not text.
            ImageError, OptionError, NumericsError, ResourceError: as `generate`.

        Example:
            >>> detections = model.detect("photo.jpg", ["cat", "dog"])
            >>> [(detection.label, detection.pixels) for detection in detections]
            [('cat', (12.0, 40.5, 210.0, 198.5))]
            >>> detections.drawn().save("detections.png")
        """
        return self._detect("detect", image, labels, options)

    def segment(
        self, image: ImageInput, labels: str | Sequence[str], **options: Unpack[Options]
    ) -> Detections:
        """Detect objects in an image and decode the mask of each object.

        Args:
            image: as for `open`.
            labels: objects to segment: `"cat ; dog"` or `["cat", "dog"]`.
            options: see `Options`.

        Returns:
            The objects with their boxes and masks.

        Raises:
            BundleError: the bundle has no mask decoder.
            PromptError, ImageError, OptionError, NumericsError, ResourceError: as `detect`.

        Example:
            >>> (cat,) = model.segment("photo.jpg", "cat")
            >>> cat.mask.array.mean()  # fraction of the image that the cat covers
            0.21
        """
        if self.manifest.graphs.mask_decoder is None:
            raise BundleError(NO_MASK_DECODER)
        return self._detect("segment", image, labels, options)

    def _detect(
        self, task: str, image: ImageInput, labels: str | Sequence[str], options: Options
    ) -> Detections:
        prompt = task_prompt(task, labels)
        with translate_resource_errors("this request"):
            opened = open_image(image, max_pixels=options.get("max_image_pixels", DEFAULT_MAX_PIXELS))
            preprocessed = preprocess_opened(opened, self.manifest.image)
        options["logprobs"] = True  # for the scores of the objects
        generation = self.generate(preprocessed, prompt, **options)
        with translate_resource_errors("this request"):
            return detections(generation, opened.rgb, self.runner, self.tokenizer, masks=task == "segment")

    def _plan(self, requests: Sequence[Request], options: Options) -> GenerationBatch:
        with translate_resource_errors("this request"):
            return plan_batch(
                requests, options, self.manifest, self.tokenizer, device=self.device, load_s=self.load_s
            )

    def _run(self, batch: GenerationBatch) -> Iterator[tuple[PlannedRequest, str]]:
        with translate_resource_errors("this request"):
            yield from run_batch(batch, self.runner)

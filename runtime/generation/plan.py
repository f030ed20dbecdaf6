"""Checks requests, opens their images and tokenises their prompts before any graph runs.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from os import PathLike, fspath

import numpy as np

from ..bundle.schema import Manifest
from ..cancellation import Cancellation
from ..errors import OptionError, PromptError
from ..graphs.model_runner import Array
from ..image.open import DEFAULT_MAX_PIXELS, ImageInput
from ..image.picture import Picture, open_picture
from ..text.tokenizer import Detokenizer, PromptTokenizer
from .constraints import AnswerGrammar, grammar_for_prompt
from .decode_loop import DecodeTimings
from .sampling import NUM_SEEDS, SamplingOptions, random_seed
from .types import FinishReason, Generation, Images, Options, Request, Timings


@dataclass
class PlannedRequest:
    """A checked request, and its answer while it is generated."""

    prompt: tuple[int, ...]  # ids, BOS to newline
    images: tuple[int, ...]  # indices into `GenerationBatch.images`, in reading order
    seed: int
    detokenizer: Detokenizer
    grammar: AnswerGrammar | None  # None: the answer is not restricted
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason = "cancelled"  # until the decode loop reports another reason
    timings: DecodeTimings = field(default_factory=DecodeTimings)


@dataclass
class GenerationBatch:
    """Checked requests, and the state of their answers."""

    requests: list[PlannedRequest]
    images: list[Array]  # float32[3, S, S] each, without duplicates
    warnings: tuple[str, ...]
    sampling: SamplingOptions
    max_new_tokens: int
    cancel: Cancellation
    tokens_per_image: int
    device: str
    load_s: float
    started_at: float = 0.0  # time.perf_counter()
    vision_s: float = 0.0

    def result(self, request: PlannedRequest) -> Generation:
        """Return the answer to a request, with the tokens generated so far."""
        timings = request.timings
        return Generation(
            text="".join(request.pieces),
            token_ids=tuple(request.token_ids),
            finish_reason=request.finish_reason,
            prompt_tokens=len(request.prompt),
            image_tokens=len(request.images) * self.tokens_per_image,
            seed=request.seed,
            device=self.device,
            timings=Timings(
                load_s=self.load_s,
                vision_s=self.vision_s,
                prefill_s=timings.prefill_s,
                decode_s=timings.decode_s,
                time_to_first_token_s=max(0.0, timings.first_token_at - self.started_at),
                tokens_per_second=timings.decoded_tokens / timings.decode_s if timings.decode_s else 0.0,
            ),
            warnings=self.warnings,
        )


def plan_batch(
    requests: Sequence[Request],
    options: Options,
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    *,
    device: str,
    load_s: float,
) -> GenerationBatch:
    """Return the checked requests as a batch.

    The function checks everything that can be checked before a graph runs.

    Args:
        requests: prompts with their images.
        options: see `Options`.
        manifest: facts of the bundle.
        tokenizer: the bundle's tokenizer.
        device: name of the device, for `Generation.device`.
        load_s: seconds that loading took, for `Timings.load_s`.

    Raises:
        OptionError: an option is unknown or outside its range.
        ImageError: an image cannot be used.
        PromptError: a prompt cannot be used, or is longer than the context.
    """
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise OptionError(
            f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(Options.__annotations__)}"
        )
    sampling = SamplingOptions(
        temperature=options.get("temperature", 0.0),
        top_k=options.get("top_k", 0),
        top_p=options.get("top_p", 1.0),
        seed=options.get("seed"),
    )
    max_new_tokens = options.get("max_new_tokens", manifest.generation.max_new_tokens)
    context = manifest.model.context_length
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral):
        raise OptionError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number")
    if not 1 <= max_new_tokens <= context:
        raise OptionError(f"max_new_tokens is {max_new_tokens}, expected 1 to {context}, the context length")

    cancel = options.get("cancel", Cancellation())
    if not isinstance(cancel, Cancellation):
        raise OptionError(f"cancel is {type(cancel).__name__}, expected a Cancellation")

    constrained = options.get("constrained", False)
    if not isinstance(constrained, bool):
        raise OptionError(f"constrained is {constrained!r}, expected True or False")

    batch_seed = random_seed() if sampling.seed is None else int(sampling.seed)
    images = _ImageSet(options.get("max_image_pixels", DEFAULT_MAX_PIXELS), manifest)
    planned = []
    for position, request in enumerate(requests):
        indices = tuple(images.add(image) for image in _as_sequence(request.images))
        image_tokens = len(indices) * manifest.image.tokens
        max_prompt_tokens = context - image_tokens - 1  # at least one token of the answer
        if max_prompt_tokens < 2:  # BOS and newline
            raise PromptError(
                f"{len(indices)} images take {image_tokens} tokens, the context has {context}; show fewer"
            )
        prompt = tokenizer.encode(request.prompt, max_prompt_tokens)
        request_seed = replace(sampling, seed=request.seed).seed  # raises if it is out of range
        seed = (batch_seed + position) % NUM_SEEDS if request_seed is None else int(request_seed)
        grammar = grammar_for_prompt(request.prompt, tokenizer, manifest.tokens.stop) if constrained else None
        planned.append(PlannedRequest(prompt, indices, seed, Detokenizer(tokenizer), grammar))
    return GenerationBatch(
        requests=planned,
        images=images.pixel_values,
        warnings=tuple(images.warnings),
        sampling=sampling,
        max_new_tokens=int(max_new_tokens),
        cancel=cancel,
        tokens_per_image=manifest.image.tokens,
        device=device,
        load_s=load_s,
    )


class _ImageSet:
    """The images of a batch without duplicates. Duplicates have the same path or the same pixel values."""

    def __init__(self, max_pixels: int, manifest: Manifest) -> None:
        self._max_pixels, self._facts = max_pixels, manifest.image
        self._index_by_path: dict[str, int] = {}
        self._index_by_hash: dict[bytes, int] = {}  # SHA-256 takes far less time than the vision graph
        self.pixel_values: list[Array] = []
        self.warnings: list[str] = []

    def add(self, source: ImageInput | Picture) -> int:
        path = fspath(source) if isinstance(source, str | PathLike) else None
        if path is not None and path in self._index_by_path:
            return self._index_by_path[path]
        opened = open_picture(source, self._facts, max_pixels=self._max_pixels)
        digest = hashlib.sha256(np.ascontiguousarray(opened.pixels).data).digest()
        index = self._index_by_hash.setdefault(digest, len(self.pixel_values))
        if index == len(self.pixel_values):
            self.pixel_values.append(opened.pixels)
        self.warnings += [warning for warning in opened.warnings if warning not in self.warnings]
        if path is not None:
            self._index_by_path[path] = index
        return index


def _as_sequence(images: Images) -> Sequence[ImageInput | Picture]:
    sequence: Sequence[ImageInput | Picture] = images if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
    if not sequence:
        raise PromptError("no image given; give at least one")
    return sequence

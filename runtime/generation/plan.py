"""Check requests, open their images and tokenise their prompts before any graph runs.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath

import numpy as np

from ..bundle.schema import Manifest
from ..errors import OptionError, PromptError
from ..graphs.model_runner import Array
from ..image.open import ImageInput
from ..image.picture import Picture, open_picture
from ..text.prompt_prefix import drop_prefix
from ..text.tokenizer import Detokenizer, PromptTokenizer
from .constraints import AnswerGrammar, grammar_for_prompt
from .decode_loop import DecodeTimings
from .logits import TokenScores, near_locations
from .resolved_options import ResolvedOptions, resolve_options
from .sampling import NUM_SEEDS, random_seed
from .types import FinishReason, Generation, Images, Options, Request, Timings


@dataclass
class PlannedRequest:
    """A checked request, and its answer while it is generated."""

    prompt: tuple[int, ...]  # ids, BOS to newline
    images: tuple[int, ...]  # indices into `GenerationBatch.images`, in reading order
    seed: int
    detokenizer: Detokenizer
    grammar: AnswerGrammar | None  # None: the answer is not restricted
    scores: TokenScores | None  # None: scores are not requested
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
    options: ResolvedOptions
    tokenizer: PromptTokenizer
    tokens_per_image: int
    device: str
    load_s: float
    started_at: float = 0.0  # time.perf_counter()
    vision_s: float = 0.0

    def result(self, request: PlannedRequest) -> Generation:
        """Return the answer to a request, with the tokens generated so far."""
        timings, scores = request.timings, None
        if request.scores is not None:
            scores = request.scores.so_far()[: len(request.token_ids)]  # without that of a stop id
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
            tokens=tuple(map(self.tokenizer.token_name, request.token_ids)),
            logprobs=None if scores is None else tuple(score.logprob for score in scores),
            location_probs=None if scores is None else tuple(score.location_prob for score in scores),
        )


def plan_batch(
    requests: Iterable[Request],
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
    resolved = resolve_options(options, manifest)
    sampling, context = resolved.sampling, manifest.model.context_length
    batch_seed = random_seed() if sampling.seed is None else int(sampling.seed)
    images = _ImageSet(resolved.max_image_pixels, manifest)
    try:
        requests = list(requests)
    except TypeError:
        raise OptionError(f"requests is of type {type(requests).__name__}, expected Requests") from None
    prompts = []
    # Check prompts before images are opened, because opening a large image takes long.
    for position, request in enumerate(requests):
        if not isinstance(request, Request):
            raise OptionError(f"requests[{position}] is {type(request).__name__}, expected a Request")
        count = len(_as_sequence(request.images))
        image_tokens = count * manifest.image.tokens
        max_prompt_tokens = context - image_tokens - 1  # at least one token of the answer
        if max_prompt_tokens < 2:  # BOS and newline
            raise PromptError(
                f"{count} images take {image_tokens} tokens, the context has {context}; give fewer"
            )
        prompts.append(tokenizer.encode(request.prompt, max_prompt_tokens, count))
    planned = []
    for position, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        indices = tuple(images.add(image) for image in _as_sequence(request.images))
        request_seed = replace(sampling, seed=request.seed).seed  # raises if it is out of range
        seed = (batch_seed + position) % NUM_SEEDS if request_seed is None else int(request_seed)
        grammar = None
        if resolved.constrained:
            text = drop_prefix(request.prompt, len(indices))
            grammar = grammar_for_prompt(text, tokenizer, manifest.tokens.stop)
        detokenizer = Detokenizer(tokenizer, special_tokens=resolved.special_tokens)
        scores = TokenScores(near_locations(tokenizer.location_ids)) if resolved.logprobs else None
        planned.append(PlannedRequest(prompt, indices, seed, detokenizer, grammar, scores))
    return GenerationBatch(
        requests=planned,
        images=images.pixel_values,
        warnings=tuple(images.warnings),
        options=resolved,
        tokenizer=tokenizer,
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

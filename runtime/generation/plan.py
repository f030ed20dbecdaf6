"""From requests to answers: pictures opened and prompts tokenised first, then graphs run, then text.

Legend: S image side in pixels, N image tokens of a row, D width.
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
from .decode_loop import Clock
from .sampling import SEEDS, SamplingOptions, random_seed
from .types import FinishReason, Generation, Images, Options, Request, Timings


@dataclass
class PlannedRequest:
    """One answer while it is written."""

    prompt: tuple[int, ...]
    pictures: tuple[int, ...]  # which of the job's pictures, in reading order
    seed: int
    detokenizer: Detokenizer
    form: AnswerGrammar | None  # what the answer may look like; None: anything
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish: FinishReason = "cancelled"  # until the loop says otherwise
    clock: Clock = field(default_factory=Clock)


@dataclass
class GenerationBatch:
    """Requests that have been checked, and what became of them."""

    rows: list[PlannedRequest]
    pictures: list[Array]  # float32[3, S, S], each different picture once
    warnings: tuple[str, ...]
    sampling: SamplingOptions
    max_new_tokens: int
    cancel: Cancellation
    image_tokens: int  # of one picture
    device: str
    load_s: float
    started: float = 0.0  # time.perf_counter()
    vision_s: float = 0.0

    def result(self, row: PlannedRequest) -> Generation:
        """The answer of a row as far as it is written."""
        clock = row.clock
        return Generation(
            text="".join(row.pieces),
            token_ids=tuple(row.ids),
            finish_reason=row.finish,
            prompt_tokens=len(row.prompt),
            image_tokens=len(row.pictures) * self.image_tokens,
            seed=row.seed,
            device=self.device,
            timings=Timings(
                load_s=self.load_s,
                vision_s=self.vision_s,
                prefill_s=clock.prefill_s,
                decode_s=clock.decode_s,
                time_to_first_token_s=max(0.0, clock.first_token_at - self.started),
                tokens_per_second=clock.decoded_tokens / clock.decode_s if clock.decode_s else 0.0,
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
    """Check everything that can be checked before a graph runs.

    Raises:
        OptionError: an option is unknown or outside its range.
        ImageError: a picture cannot be used.
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
    limit = manifest.model.context_length
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral):
        raise OptionError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number")
    if not 1 <= max_new_tokens <= limit:
        raise OptionError(f"max_new_tokens is {max_new_tokens}, expected 1 to {limit}, the context length")

    cancel = options.get("cancel", Cancellation())
    if not isinstance(cancel, Cancellation):
        raise OptionError(f"cancel is {type(cancel).__name__}, expected a Cancellation")

    constrained = options.get("constrained", False)
    if not isinstance(constrained, bool):
        raise OptionError(f"constrained is {constrained!r}, expected True or False")

    seed = random_seed() if sampling.seed is None else int(sampling.seed)
    album = _ImageSet(options.get("max_image_pixels", DEFAULT_MAX_PIXELS), manifest)
    rows = []
    for index, request in enumerate(requests):
        pictures = tuple(album.add(picture) for picture in _as_sequence(request.images))
        room = limit - len(pictures) * manifest.image.tokens - 1  # one is for the answer
        if room < 2:  # BOS and newline
            raise PromptError(
                f"{len(pictures)} images take {len(pictures) * manifest.image.tokens} tokens, "
                f"the context has {limit}; show fewer"
            )
        prompt = tokenizer.encode(request.prompt, room)
        own = replace(sampling, seed=request.seed).seed  # refuses a seed out of range
        drawn = (seed + index) % SEEDS if own is None else int(own)
        form = grammar_for_prompt(request.prompt, tokenizer, manifest.tokens.stop) if constrained else None
        rows.append(PlannedRequest(prompt, pictures, drawn, Detokenizer(tokenizer), form))
    return GenerationBatch(
        rows=rows,
        pictures=album.pictures,
        warnings=tuple(album.warnings),
        sampling=sampling,
        max_new_tokens=int(max_new_tokens),
        cancel=cancel,
        image_tokens=manifest.image.tokens,
        device=device,
        load_s=load_s,
    )


class _ImageSet:
    """Keeps each different picture once, whatever it was given as."""

    def __init__(self, max_pixels: int, manifest: Manifest) -> None:
        self._max_pixels, self._facts = max_pixels, manifest.image
        self._of_path: dict[str, int] = {}
        self._of_pixels: dict[bytes, int] = {}  # by SHA-256, which takes far less time than the vision graph
        self.pictures: list[Array] = []
        self.warnings: list[str] = []

    def add(self, source: ImageInput | Picture) -> int:
        path = fspath(source) if isinstance(source, str | PathLike) else None
        if path is not None and path in self._of_path:
            return self._of_path[path]
        picture = open_picture(source, self._facts, max_pixels=self._max_pixels)
        digest = hashlib.sha256(np.ascontiguousarray(picture.pixels).data).digest()
        index = self._of_pixels.setdefault(digest, len(self.pictures))
        if index == len(self.pictures):
            self.pictures.append(picture.pixels)
        self.warnings += [warning for warning in picture.warnings if warning not in self.warnings]
        if path is not None:
            self._of_path[path] = index
        return index


def _as_sequence(images: Images) -> Sequence[ImageInput | Picture]:
    pictures: Sequence[ImageInput | Picture] = images if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
    if not pictures:
        raise PromptError("no image given; PaliGemma answers about at least one")
    return pictures

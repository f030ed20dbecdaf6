"""Requests, options and answers of generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from ..cancellation import Cancellation
from ..image.open import ImageInput
from ..image.picture import Picture

FinishReason = Literal["stop", "length", "cancelled"]
Images = ImageInput | Picture | Sequence[ImageInput | Picture]  # one image, or several in reading order


@dataclass(frozen=True)
class Request:
    """An entry of a batch: a prompt about one or several images.

    Attributes:
        images: a path, the bytes of a file, a Pillow image, an array, a `Picture`, or a sequence of these.
        prompt: text, such as `caption en`; may be empty.
        seed: seed of this request, 0 to 2**64 - 1, independent of its position in the batch. None: the seed
            of the call plus the position.
    """

    images: Images
    prompt: str
    seed: int | None = None


class Options(TypedDict, total=False):
    """Keyword arguments of `generate`, `stream`, `generate_batch`, `detect` and `segment`; all are optional.

    A value outside its range raises `OptionError`.

    Attributes:
        max_new_tokens: maximum number of tokens to generate, 1 to the context length of the model. Default:
            `generation.max_new_tokens` of the bundle's manifest.
        temperature: divisor of the logits, finite and at least 0. 0, the default, always takes the most
            likely token (greedy decoding); 1 samples with the model's probabilities.
        top_k: sample from the k most likely tokens, at least 0. 0, the default, keeps all.
        top_p: sample from the most likely tokens that together have this probability (nucleus sampling), more
            than 0 and at most 1. Default 1 keeps all. Applied after `top_k`.
        seed: 0 to 2**64 - 1; the same seed gives the same sampled answer. None, the default, draws a seed,
            which `Generation.seed` reports.
        constrained: restrict the answers of `detect` and `segment` prompts to well-formed objects with the
            labels of the prompt. Default False.
        max_image_pixels: cap on width times height, at least 1; larger images are refused before they are
            decoded. Default 89,478,485. Pillow also refuses WebP and TIFF images of more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`; raise both for larger ones.
        cancel: a `Cancellation`, with which another thread stops the request within one token.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    constrained: bool
    max_image_pixels: int
    cancel: Cancellation


@dataclass(frozen=True)
class Timings:
    """Durations of the stages in seconds; the requests of a batch share their stages.

    Attributes:
        load_s: loading the model.
        vision_s: encoding the images.
        prefill_s: processing image tokens and prompt.
        decode_s: all decode steps.
        time_to_first_token_s: from the start of the request; loading is not included.
        tokens_per_second: of the decode steps, summed over the rows of the batch; 0 without decode steps.
    """

    load_s: float
    vision_s: float
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float
    tokens_per_second: float


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: the answer, without control tokens.
        token_ids: its ids, without the stop id.
        finish_reason: `stop` after a stop id, `length` at `max_new_tokens` or at the end of the context,
            `cancelled` by a `Cancellation`.
        prompt_tokens: tokens of BOS, prompt and newline.
        image_tokens: tokens of the images.
        seed: repeats a sampled answer.
        device: `cpu`, `cuda` or `cuda:N`.
        timings: durations of the stages.
        warnings: one line each, about opening the images.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    image_tokens: int
    seed: int
    device: str
    timings: Timings
    warnings: tuple[str, ...]

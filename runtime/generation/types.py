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
        prompt: text such as `caption en`. The text may be empty.
        seed: 0 to 2**64 - 1. The sampled answer then does not depend on the request's position in the batch.
            With None the seed of the request is the seed of the call plus the position.
    """

    images: Images
    prompt: str
    seed: int | None = None


class Options(TypedDict, total=False):
    """Optional keyword arguments of `generate`, `stream`, `generate_batch`, `detect` and `segment`.

    A value outside its range raises `OptionError`. The bundle's manifest can contain other defaults of
    `max_new_tokens`, `temperature`, `top_k`, `top_p`, `repetition_penalty` and `suppress_tokens`.

    Attributes:
        max_new_tokens: maximum number of tokens to generate, 1 to the context length of the model. Default:
            `generation.max_new_tokens` of the bundle's manifest.
        temperature: divisor of the logits, finite and at least 0. With 0 the most likely token is always
            taken (greedy decoding). With 1 tokens are sampled with the model's probabilities. Default 0.
        top_k: sample from the `top_k` most likely tokens. At least 0; 0 keeps all tokens. Default 0.
        top_p: sample from the most likely tokens that together have this probability (nucleus sampling).
            More than 0 and at most 1; 1 keeps all tokens. Applied after `top_k`. Default 1.
        repetition_penalty: makes tokens of the prompt and of the answer so far less likely: their positive
            logits are divided by this number, their negative logits multiplied (arXiv 1909.05858, section
            4.1). Finite and more than 0; 1 changes nothing. Default 1.
        suppress_tokens: ids that are never generated, in addition to the ids that the bundle suppresses.
            With `constrained`, the form of the answer has priority. Default: none.
        seed: 0 to 2**64 - 1. The same seed gives the same sampled answer. With None a random seed is drawn,
            and `Generation.seed` reports it. Default None.
        constrained: restrict the answers of `detect` and `segment` prompts to well-formed objects with the
            labels of the prompt. Default False.
        logprobs: also return the log-probability of each token in `Generation.logprobs`. Default False;
            `detect` and `segment` always return them.
        special_tokens: include special tokens in the text of the answer, for example the tokens that a
            fine-tune added. Default False.
        max_image_pixels: cap on width times height, at least 1. Larger images are refused before they are
            decoded. Default 89,478,485.
        cancel: a `Cancellation`. Another thread can use it to stop the request within one token.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    suppress_tokens: Sequence[int]
    seed: int | None
    constrained: bool
    logprobs: bool
    special_tokens: bool
    max_image_pixels: int
    cancel: Cancellation


@dataclass(frozen=True)
class Timings:
    """Durations of the stages in seconds. Requests of a batch with the same number of images run
    together and have the same durations.

    Attributes:
        load_s: time to load the model.
        vision_s: time to encode the images.
        prefill_s: time to process image tokens and prompt.
        decode_s: time of all decode steps together.
        time_to_first_token_s: time from the start of the request to its first token, without `load_s`.
        tokens_per_second: tokens of all rows that run together, per second of decode steps. 0 if there were
            no decode steps.
    """

    load_s: float
    vision_s: float
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float
    tokens_per_second: float


@dataclass(frozen=True)
class Generation:
    """The answer to a request.

    Attributes:
        text: the answer, without special tokens unless the option `special_tokens` is set.
        token_ids: ids of the answer, without the stop id.
        finish_reason: `stop` after a stop id, `length` at `max_new_tokens` or at the end of the context,
            `cancelled` by a `Cancellation`.
        prompt_tokens: number of tokens of BOS, prompt and newline together.
        image_tokens: number of tokens of the images.
        seed: seed of the request. The same seed repeats a sampled answer.
        device: `cpu`, `cuda` or `cuda:N`.
        timings: durations of the stages.
        warnings: warnings about opening the images, one line per warning.
        tokens: the names of `token_ids` in the vocabulary, special tokens included.
        logprobs: for each of `token_ids` the natural logarithm of its probability: the log-softmax of the
            model's logits, before temperature, penalty, suppression, filters and constraints. None without
            the option `logprobs`.
        location_probs: for each of `token_ids` that is a location token (`<loc0123>`) the probability of all
            locations within 20 / 1,024 of the image's side, from the same softmax; None for other tokens.
            None without the option `logprobs`.
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
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] | None = None
    location_probs: tuple[float | None, ...] | None = None

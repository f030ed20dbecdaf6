"""What is asked and what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from ..cancellation import Cancellation
from ..image.open import ImageInput
from ..image.picture import Picture

FinishReason = Literal["stop", "length", "cancelled"]
Images = ImageInput | Picture | Sequence[ImageInput | Picture]  # one picture, or several in reading order


@dataclass(frozen=True)
class Request:
    """One entry of a batch: a prompt about one or several pictures."""

    images: Images
    prompt: str
    seed: int | None = None  # of this row, wherever it stands; None: the call's seed + its place in the batch


class Options(TypedDict, total=False):
    """Keyword arguments of `generate`, `stream` and `generate_batch`; all may be left out."""

    max_new_tokens: int  # the most tokens to generate; the bundle has a default
    temperature: float  # 0, the default, takes the likeliest token each time; 1 samples as the model predicts
    top_k: int  # sample among the k likeliest tokens; 0, the default, means all
    top_p: float  # sample among the likeliest tokens that together have this probability; default 1
    seed: int | None  # makes a sampled answer repeatable; None, the default, draws one
    constrained: bool  # after `detect` and `segment`, only what can be read as objects; default False
    max_image_pixels: int  # larger pictures are refused before they are decoded
    cancel: Cancellation  # throw it from another thread to stop within one token


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage; the requests of a batch share their stages."""

    load_s: float
    vision_s: float
    prefill_s: float
    decode_s: float
    time_to_first_token_s: float  # from the request on; loading is not in it
    tokens_per_second: float  # of decode steps, all rows of the batch together; 0 when there was none


@dataclass(frozen=True)
class Generation:
    """One answer."""

    text: str
    token_ids: tuple[int, ...]  # without the stop id
    finish_reason: FinishReason
    prompt_tokens: int  # BOS, prompt and newline
    image_tokens: int
    seed: int  # repeats a sampled answer
    device: str
    timings: Timings
    warnings: tuple[str, ...]  # of opening the pictures

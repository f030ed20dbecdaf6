"""Check the options of a call, and add the defaults of the bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Integral
from typing import cast

from ..bundle.schema import Manifest
from ..cancellation import Cancellation
from ..errors import OptionError, quote
from ..image.open import DEFAULT_MAX_PIXELS
from .sampling import SamplingOptions
from .types import Options


@dataclass(frozen=True)
class ResolvedOptions:
    """All options of a call; `Options` describes them."""

    sampling: SamplingOptions
    max_new_tokens: int
    constrained: bool
    logprobs: bool
    special_tokens: bool
    max_image_pixels: int
    cancel: Cancellation


def with_defaults(options: Options, manifest: Manifest) -> Options:
    """Return the options, with the defaults of a bundle for options that are not given."""
    return cast(Options, {**asdict(manifest.generation), **options})


def resolve_options(given: Options, manifest: Manifest) -> ResolvedOptions:
    """Return the checked options of a call.

    Raises:
        OptionError: an option is unknown or outside its range.
    """
    known = Options.__annotations__
    if unknown := set(given) - set(known):
        raise OptionError(f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(known)}")
    options = with_defaults(given, manifest)
    max_new_tokens, context = options["max_new_tokens"], manifest.model.context_length
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral):
        raise OptionError(f"max_new_tokens is {quote(max_new_tokens)}, expected a whole number")
    if not 1 <= max_new_tokens <= context:
        raise OptionError(
            f"max_new_tokens is {quote(max_new_tokens)}, expected 1 to {context}, the context length"
        )

    cancel = options.get("cancel", Cancellation())
    if not isinstance(cancel, Cancellation):
        raise OptionError(f"cancel is {type(cancel).__name__}, expected a Cancellation")

    flags = {
        "constrained": options.get("constrained", False),
        "logprobs": options.get("logprobs", False),
        "special_tokens": options.get("special_tokens", False),
    }
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise OptionError(f"{name} is {flag!r}, expected True or False")

    sampling = SamplingOptions(
        temperature=options["temperature"],
        top_k=options["top_k"],
        top_p=options["top_p"],
        repetition_penalty=options["repetition_penalty"],
        suppress_tokens=options["suppress_tokens"],
        seed=options.get("seed"),
    )
    vocab_size = manifest.model.vocab_size
    for token_id in sampling.suppress_tokens:
        if not 0 <= token_id < vocab_size:
            raise OptionError(f"suppress_tokens has the id {quote(token_id)}, expected 0 to {vocab_size - 1}")
    return ResolvedOptions(
        sampling=sampling,
        max_new_tokens=int(max_new_tokens),
        max_image_pixels=options.get("max_image_pixels", DEFAULT_MAX_PIXELS),
        cancel=cancel,
        **flags,
    )

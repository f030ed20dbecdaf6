"""Errors for the user: one class per exit code of the command line.

A message is one line written by this package; it names the file or the option, and what to do.
"""

from __future__ import annotations

import re

# Parameters of the Python API whose name differs from their option, and where a message names them: not as
# a part of a path.
_OPTIONS = {"memory_limit": "--gpu-memory"} | {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("max_new_tokens", "top_k", "top_p", "repetition_penalty", "suppress_tokens", "special_tokens"),
        "max_image_pixels",
    )
}
_PARAMETER = re.compile(rf"(?<![\w/.\\-])({'|'.join(_OPTIONS)})(?![\w/.\\-]| \(--)")


class PaliGemmaError(Exception):
    """Base class of the errors that this package raises on purpose."""

    exit_code = 1


class OptionError(PaliGemmaError, ValueError):
    """An option has a value outside its range. Exit code 2."""

    exit_code = 2


class ImageError(PaliGemmaError, ValueError):
    """An image cannot be read or is not accepted. Exit code 3."""

    exit_code = 3


class PromptError(PaliGemmaError, ValueError):
    """A prompt cannot be tokenised or does not fit into the context. Exit code 3."""

    exit_code = 3


class BundleError(PaliGemmaError):
    """The bundle's folder is incomplete, damaged, or differs from its manifest. Exit code 4."""

    exit_code = 4


class ProviderError(PaliGemmaError):
    """onnxruntime, the requested device or an optional package is not available. Exit code 4."""

    exit_code = 4


class NumericsError(BundleError):
    """The graphs computed NaN or infinity. Exit code 4."""


class ResourceError(PaliGemmaError):
    """Out of memory or disk space. Exit code 5."""

    exit_code = 5


class MismatchError(PaliGemmaError):
    """A bundle differs from its reference. Exit code 6."""

    exit_code = 6


class FailedRowsError(PaliGemmaError):
    """A batch is complete, but some rows contain an error instead of an answer. Exit code 7."""

    exit_code = 7


def name_options(message: str) -> str:
    """Return a message with the options of the command line in place of the parameters of the Python API."""
    return _PARAMETER.sub(lambda match: _OPTIONS[match[0]], message)


def quote(value: object) -> str:
    """Return the representation of a value for a message."""
    try:
        return repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"

"""Errors for the user: one class per exit code of the command line.

A message is one line written by this package; it names the file or the option, and what to do.
"""

from __future__ import annotations


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

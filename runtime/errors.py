"""What can go wrong for a user, one class for each exit code of the command line.

A message is one line of our own words: it names the file or option and what mends it.
"""

from __future__ import annotations


class PaliGemmaError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class OptionError(PaliGemmaError, ValueError):
    """An option has a value outside its range."""

    exit_code = 2


class ImageError(PaliGemmaError, ValueError):
    """The picture cannot be read, or is not one we accept."""

    exit_code = 3


class PromptError(PaliGemmaError, ValueError):
    """The prompt cannot be tokenised, or does not fit the context."""

    exit_code = 3


class BundleError(PaliGemmaError):
    """The exported folder is incomplete, damaged, or not what its manifest says."""

    exit_code = 4


class ProviderError(PaliGemmaError):
    """The execution engine or the device asked for is not there."""

    exit_code = 4


class NumericsError(BundleError):
    """The graphs answered with values that are not numbers."""


class ResourceError(PaliGemmaError):
    """The machine ran out of memory or disk."""

    exit_code = 5


class MismatchError(PaliGemmaError):
    """A comparison with the reference failed."""

    exit_code = 6


class FailedRowsError(PaliGemmaError):
    """A batch has ended, or was ended, with rows that hold an error in place of an answer."""

    exit_code = 7

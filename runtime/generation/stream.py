"""An answer that is generated while it is iterated."""

from __future__ import annotations

from collections.abc import Iterator

from .plan import GenerationBatch, PlannedRequest
from .types import Generation


class Stream:
    """An answer that is generated while it is iterated; `PaliGemma.stream` returns it.

    Iteration yields non-empty pieces of text. Each piece consists of whole characters. A stream can be
    iterated only once.

    Example:
        >>> stream = model.stream("photo.jpg", "describe en")
        >>> for piece in stream:
        ...     print(piece, end="", flush=True)
        >>> stream.result.finish_reason
        'stop'
    """

    def __init__(self, pieces: Iterator[str], batch: GenerationBatch, request: PlannedRequest) -> None:
        self._pieces, self._batch, self._request = pieces, batch, request

    def __iter__(self) -> Iterator[str]:
        """Return the iterator over the pieces of text. The graphs run in the thread that iterates."""
        return self._pieces

    @property
    def result(self) -> Generation:
        """The answer generated so far. It is complete when the iteration has ended."""
        return self._batch.result(self._request)

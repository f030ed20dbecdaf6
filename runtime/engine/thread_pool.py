"""Run functions in threads during a block."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield an executor with this number of threads, and wait for its functions at the end of the block.

    After Ctrl-C the block ends at once, because the functions may take seconds.
    """
    executor = ThreadPoolExecutor(threads)
    try:
        yield executor
    except BaseException as error:
        executor.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    executor.shutdown()

"""Threads beside the computation: one reads the next batches, one writes the results."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

# Batches that are read before their turn. A buffer each, and one for the batch being computed and for the one before,
# whose results may still be on their way.
AHEAD = 2


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, while a thread produces the next AHEAD."""
    end: Any = object()
    with ThreadPoolExecutor(1, "read") as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item


@contextmanager
def write_behind(work: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Yield a function that has `work` done in a thread, and waits only while more than AHEAD calls are not done.

    An error of `work` is raised by one of the next calls, or at the end of the block, which waits for all.
    """
    waiting: deque[Future[None]] = deque()

    def later(item: T) -> None:
        waiting.append(thread.submit(work, item))
        while len(waiting) > AHEAD:
            waiting.popleft().result()

    with ThreadPoolExecutor(1, "write") as thread:
        yield later
        for future in waiting:
            future.result()

"""Decoding ahead: a thread makes the next items while the last ones are used.

pyarrow and numpy let go of the interpreter while they decode, check and copy, and so
do the simulator's kernels: on two cores the time of the one hides behind the other's.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yield ``items`` in their order, made by a thread.

    The thread starts with the first item that is asked for. It ends with the last
    one, with an error, and when this generator is closed or dropped: then after the
    item under way, and ``items`` are closed if they can be.

    Args:
        items: None of them None; not used by anybody else meanwhile.
        depth: Items that are made or under way beyond the one in use, at most; >= 1.

    Raises:
        Exception: What making an item raised, in that item's place.
        ValueError: ``depth`` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth: expected >= 1, got {depth}")
    pending: deque[Future[T | None]] = deque()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="isotherm-decode") as thread:
            try:
                for _ in range(depth):
                    pending.append(thread.submit(next, items, None))
                while (item := pending.popleft().result()) is not None:
                    pending.append(thread.submit(next, items, None))
                    yield item
            finally:
                for future in pending:
                    future.cancel()
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()

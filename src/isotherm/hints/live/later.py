"""One thread that runs actions at their time."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Later:
    """Runs actions after a delay, one after the other, in a thread of its own.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ready = threading.Condition()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, wait_s: float, action: Callable[[], None]) -> None:
        """Run an action in ``wait_s`` seconds; not at all once it is closed."""
        with self._ready:
            when = time.monotonic() + wait_s
            heapq.heappush(self._queue, (when, next(self._number), action))
            self._ready.notify()

    def close(self) -> None:
        """Drop what has not run yet and wait for what runs; may be called again."""
        with self._ready:
            self._closed = True
            self._queue = []
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._closed and (
                    not self._queue or self._queue[0][0] > time.monotonic()
                ):
                    wait_s = None
                    if self._queue:
                        wait_s = max(0.0, self._queue[0][0] - time.monotonic())
                    self._ready.wait(wait_s)
                if self._closed:
                    return
                action = heapq.heappop(self._queue)[2]
            action()

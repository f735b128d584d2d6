"""Clocks. Nothing reads the time but through ``Machine.clock``."""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary start; never decreases."""
        ...


class MonotonicClock:
    """The host's CLOCK_MONOTONIC."""

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()


class VirtualClock:
    """A clock that moves when it is told to: the simulator's, and the tests'."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds."""
        return self._now_ns

    def advance(self, delta_ns: int) -> None:
        """Move the clock forward by ``delta_ns`` >= 0.

        Raises:
            ValueError: ``delta_ns`` is negative.
        """
        if delta_ns < 0:
            raise ValueError(f"delta_ns: expected >= 0, got {delta_ns}")
        self._now_ns += delta_ns

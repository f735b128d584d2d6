"""How much a session may ask for: looks, events, room in the journal."""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from isotherm.core.changes import HostChanges

#: Looks at processes at once and a second: each takes up to 0.4 ms, of a number that is
#: nobody's. At once both a lock and a handle of as many as may be open (MOST_HANDLES).
LOOKS: Final = 1 << 17
LOOKS_PER_S: Final = 1000.0
#: Perf events of a thread on a CPU, ever: each makes its page faults slower,
#: and a source opens one whenever it begins with the process.
MOST_EVENTS: Final = 64
#: Threads and CPUs remembered before those that have ended are looked for.
_MANY_EVENTS: Final = 1 << 16
#: Changes that are not undone, and bytes of the journal, which is memory: /run is.
MOST_PENDING: Final = 1 << 16
MOST_JOURNAL_BYTES: Final = 16 << 20

log = structlog.get_logger()


class Looks:
    """A bucket of looks at processes; safe to use from several threads.

    Args:
        most: In it at the start, and at most.
        per_s: That come back in a second.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        most: float = LOOKS,
        per_s: float = LOOKS_PER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._per_s, self._clock = most, per_s, clock
        self._left, self._at_s = most, clock()
        self._guard = threading.Lock()

    def take(self, count: int = 1) -> None:
        """Take some.

        Raises:
            OSError: EAGAIN: there are not so many; none was taken.
        """
        with self._guard:
            now_s = self._clock()
            came = (now_s - self._at_s) * self._per_s
            self._left, self._at_s = min(self._most, self._left + came), now_s
            if count > self._left:
                raise OSError(
                    errno.EAGAIN,
                    f"{count} processes: more than {self._per_s:g} a second",
                )
            self._left -= count


class Events:
    """Counts the perf events of threads; safe to use from several threads.

    Whether an event is closed again is not to be seen from here: its descriptor is
    the session's. So all of a thread's life count.

    Args:
        most: Of a thread on a CPU.
    """

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self._most, self._guard = most, threading.Lock()
        self._taken: dict[tuple[int, int], int] = {}
        self._many = _MANY_EVENTS

    def take(self, tid: int, cpu: int) -> None:
        """Take one more.

        Raises:
            OSError: EMFILE: the thread has had its events.
        """
        with self._guard:
            taken = self._taken.get((tid, cpu), 0)
            if taken >= self._most:
                raise OSError(errno.EMFILE, f"thread {tid}: {taken} events already")
            self._taken[tid, cpu] = taken + 1
            if len(self._taken) > self._many:
                self._taken = {
                    at: count
                    for at, count in self._taken.items()
                    if Path(f"/proc/{at[0]}").exists()
                }
                self._many = max(_MANY_EVENTS, 2 * len(self._taken))


class Room:
    """Refuses changes that the journal has no room for.

    Args:
        changes: The journal.
        most_pending: Changes that are not undone.
        most_bytes: Of the journal.
    """

    def __init__(
        self,
        changes: HostChanges,
        most_pending: int = MOST_PENDING,
        most_bytes: int = MOST_JOURNAL_BYTES,
    ) -> None:
        self._changes, self._said = changes, False
        self._most_pending, self._most_bytes = most_pending, most_bytes

    def check(self) -> None:
        """Refuse one more change where there are enough.

        Raises:
            OSError: ENOSPC.
        """
        pending, size = self._changes.pending, self._changes.journal_bytes
        if pending < self._most_pending and size < self._most_bytes:
            return
        if not self._said:
            self._said = True
            log.warning(
                "journal-full", changes=pending, bytes=size, what="no more are made"
            )
        raise OSError(
            errno.ENOSPC,
            f"{pending} changes, {size} bytes of journal: no more before some are"
            " undone",
        )

"""How much a session may ask for: looks at processes a second, room in the journal."""

import errno
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from isotherm.core.changes import HostChanges

#: Looks at processes at once and a second: each takes up to 0.4 ms, of a number that is
#: nobody's. At once both a lock and a handle of as many as may be open (MOST_HANDLES).
LOOKS: Final = 1 << 17
LOOKS_PER_S: Final = 1000.0
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

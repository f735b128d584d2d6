"""A share of the processes: the others are left alone, as if there were no daemon."""

import hashlib
from collections.abc import Callable
from typing import Final

from isotherm.daemon.rundir import start_ticks
from isotherm.machine.linux.targets.follow import Claims

#: Why a process is left alone that is not of the share.
OUTSIDE: Final = "outside the canary share"


class Canary:
    """Claims a share of the processes that are found.

    Which ones is drawn by number and start time: the same process is in or out as
    long as it lives, and again in a daemon that starts later.

    Args:
        share: Of the processes, in [0, 1].
        inner: Asked for those of the share; None: they are free.
        started: Returns when a process started; None: it has gone.
    """

    def __init__(
        self,
        share: float,
        inner: Claims | None,
        started: Callable[[int], int | None] = start_ticks,
    ) -> None:
        self._share, self._inner, self._started = share, inner, started

    def claim(self, pid: int) -> str | None:
        """Have a process for ourselves; return why not, None if it is ours now."""
        text = f"{pid} {self._started(pid)}".encode()
        digest = hashlib.blake2b(text, digest_size=4).digest()
        if int.from_bytes(digest, "little") >= self._share * 2**32:
            return OUTSIDE
        return None if self._inner is None else self._inner.claim(pid)

    def release(self, pid: int) -> None:
        """Give it up."""
        if self._inner is not None:
            self._inner.release(pid)

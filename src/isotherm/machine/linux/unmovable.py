"""Pages that will not move: why, how many, and for how long they are left alone."""

import errno
import threading
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.machine.linux.intervals import Ranges, covered


class Reason(IntEnum):
    """Why a page is not moved."""

    #: It stayed where it was, try after try: held by a device or a long I/O.
    PINNED = 0
    #: Several processes map it, and MPOL_MF_MOVE moves what one maps alone.
    SHARED = 1
    #: Its frame is broken (hwpoison).
    POISONED = 2


#: include/uapi/asm-generic/errno.h; Python does not name it.
EHWPOISON: Final = 133

#: What ``move`` answers for each; none of them is worth a second try.
ERRNO: Final = np.array([errno.EOPNOTSUPP, errno.EACCES, EHWPOISON], np.int16)

#: How long each is left alone before it may be tried again. Pins of a ring or of
#: RDMA last as long as their process; a child that shares pages execs soon.
REST_NS: Final = np.array([600, 30, 1 << 33], np.int64) * NS_PER_S

#: Failures after which a page counts as pinned, and how far apart they must be:
#: migrate_pages() itself tries ten times within a call (mm/migrate.c).
STRIKES: Final = 3
STRIKE_REST_NS: Final = NS_PER_S // 10

_NONE: Final = 255


class Unmovable:
    """The pages that are left alone, as sorted columns. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page = np.empty(0, np.uint32)
        self._reason = np.empty(0, np.uint8)
        self._until_ns = np.empty(0, np.int64)
        self._struck = np.empty(0, np.uint32)
        self._strikes = np.empty(0, np.uint8)
        self._struck_ns = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._page)

    def counts(self) -> dict[str, int]:
        """Return how many pages are left alone now, by reason."""
        count = np.bincount(self._reason, minlength=len(Reason))
        return {reason.name.lower(): int(count[reason]) for reason in Reason}

    def reasons(self, page: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return the ``Reason`` of each page, 255 where it may be tried."""
        with self._lock:
            return self._find(page)

    def _find(self, page: NDArray[np.uint32]) -> NDArray[np.uint8]:
        found = np.full(len(page), _NONE, np.uint8)
        if len(self._page) and len(page):
            at = np.searchsorted(self._page, page)
            at[at == len(self._page)] = 0
            same = self._page[at] == page
            found[same] = self._reason[at[same]]
        return found

    def set_aside(self, page: NDArray[np.uint32], reason: Reason, now_ns: int) -> None:
        """Leave pages alone from now on."""
        if len(page) == 0:
            return
        with self._lock:
            self._add(page, reason, now_ns)

    def _add(self, page: NDArray[np.uint32], reason: Reason, now_ns: int) -> None:
        page = np.unique(page)
        keep = ~np.isin(self._page, page)
        until = np.full(len(page), now_ns + REST_NS[reason], np.int64)
        joined = np.concatenate([self._page[keep], page])
        order = np.argsort(joined)
        self._page = joined[order]
        self._reason = np.concatenate(
            [self._reason[keep], np.full(len(page), reason, np.uint8)]
        )[order]
        self._until_ns = np.concatenate([self._until_ns[keep], until])[order]

    def strike(self, page: NDArray[np.uint32], now_ns: int) -> NDArray[np.bool_]:
        """Note that pages would not move; return which count as pinned from now on.

        Failures that follow each other within a tenth of a second count once.
        """
        pinned = np.zeros(len(page), np.bool_)
        if len(page) == 0:
            return pinned
        with self._lock:
            new = np.setdiff1d(page, self._struck)
            if len(new):
                joined = np.concatenate([self._struck, new])
                order = np.argsort(joined)
                self._struck = joined[order]
                zeros = np.zeros(len(new), np.int64)
                self._strikes = np.concatenate([self._strikes, zeros.astype(np.uint8)])[
                    order
                ]
                self._struck_ns = np.concatenate(
                    [self._struck_ns, zeros - STRIKE_REST_NS]
                )[order]
            at = np.searchsorted(self._struck, page)
            due = now_ns - self._struck_ns[at] >= STRIKE_REST_NS
            self._strikes[at[due]] += 1
            self._struck_ns[at[due]] = now_ns
            pinned = self._strikes[at] >= STRIKES
            if pinned.any():
                self._add(page[pinned], Reason.PINNED, now_ns)
                self._keep_struck(~np.isin(self._struck, page[pinned]))
        return pinned

    def _keep_struck(self, keep: NDArray[np.bool_]) -> None:
        self._struck = self._struck[keep]
        self._strikes = self._strikes[keep]
        self._struck_ns = self._struck_ns[keep]

    def refresh(self, renewed: Ranges, now_ns: int) -> None:
        """Forget pages of new owners, and those that have rested.

        Strikes older than the rest of a pinned page are forgotten as well.
        """
        with self._lock:
            if len(self._page):
                keep = self._until_ns > now_ns
                keep &= ~covered(renewed, self._page.astype(np.int64))
                if not keep.all():
                    self._page = self._page[keep]
                    self._reason = self._reason[keep]
                    self._until_ns = self._until_ns[keep]
            if len(self._struck):
                keep = now_ns - self._struck_ns < int(REST_NS[Reason.PINNED])
                keep &= ~covered(renewed, self._struck.astype(np.int64))
                if not keep.all():
                    self._keep_struck(keep)

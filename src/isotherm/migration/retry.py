"""Pages that could not be moved just now: when to try again, and when to stop."""

import errno as _errno

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.protocol import SpacesChanged

#: What may be gone at the next try: a page that is locked or under writeback
#: (EBUSY, EAGAIN in migrate_pages()), a node without a free page (ENOMEM).
TRANSIENT = np.array([_errno.EBUSY, _errno.EAGAIN, _errno.ENOMEM], np.int16)


class RetryTable:
    """Columns sorted by page, one row for a page under retry or at rest.

    A page that failed ``max_tries`` times rests: wishes to move it are refused
    until ``rest_ns`` have passed, whatever plan they come from.

    Args:
        backoff_ns: Wait after the first failure; doubles with each.
        max_tries: Tries in all, at least 1.
        rest_ns: How long a page rests that failed every time.
    """

    def __init__(self, backoff_ns: int, max_tries: int, rest_ns: int) -> None:
        if max_tries < 1 or max_tries > 32:
            raise ValueError(f"max_tries: expected 1 to 32, got {max_tries}")
        self._backoff_ns = backoff_ns
        self._max_tries = max_tries
        self._rest_ns = rest_ns
        self.page = np.empty(0, np.uint32)
        self.node = np.empty(0, np.uint8)
        self.src = np.empty(0, np.uint8)
        self.tries = np.empty(0, np.uint8)
        self.until_ns = np.empty(0, np.int64)
        #: True while the page is queued or in flight again.
        self.out = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self.page)

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """Rows that will be tried again and are not on their way, bool[n]."""
        return ~self.out & (self.tries < self._max_tries)

    def find(
        self, page: NDArray[np.uint32]
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the row of each page and whether it has one."""
        at = np.searchsorted(self.page, page)
        np.minimum(at, len(self.page) - 1, out=at)
        return at, self.page[at] == page

    def retarget(self, row: NDArray[np.intp], node: NDArray[np.uint8]) -> None:
        """Give rows another destination; tries and back-off stay."""
        self.node[row] = node

    def release_due(self, now_ns: int) -> NDArray[np.intp]:
        """Mark as out, and return, the waiting rows whose back-off has ended."""
        due = np.flatnonzero(self.waiting & (self.until_ns <= now_ns))
        self.out[due] = True
        return due

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the rows outside ``mask``."""
        self.page = self.page[mask]
        self.node = self.node[mask]
        self.src = self.src[mask]
        self.tries = self.tries[mask]
        self.until_ns = self.until_ns[mask]
        self.out = self.out[mask]

    def forget_rested(self, now_ns: int) -> None:
        """Drop rows that have rested long enough."""
        rested = (self.tries >= self._max_tries) & (self.until_ns <= now_ns)
        if rested.any():
            self.keep(~rested)

    def forget(self, page: NDArray[np.uint32]) -> None:
        """Drop the rows of pages that moved, or never will."""
        if len(self.page):
            at, found = self.find(page)
            if found.any():
                mask = np.ones(len(self.page), np.bool_)
                mask[at[found]] = False
                self.keep(mask)

    def rest(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
        until_ns: int,
    ) -> None:
        """Let pages rest until a time, whatever they have been through."""
        self.forget(page)
        n = len(page)
        self._insert(
            page,
            node,
            src,
            np.full(n, self._max_tries, np.uint8),
            np.full(n, until_ns, np.int64),
        )

    def renew(self, change: SpacesChanged) -> int:
        """Drop the rows of renewed pages; return how many of them were waiting."""
        gone = change.holds(self.page)
        waiting = int(np.count_nonzero(gone & self.waiting))
        if gone.any():
            self.keep(~gone)
        return waiting

    def failed(
        self,
        now_ns: int,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
    ) -> int:
        """Note one more failure of each page; return how many now rest."""
        before = np.zeros(len(page), np.uint8)
        if len(self.page):
            at, found = self.find(page)
            before[found] = self.tries[at[found]]
            self.forget(page)
        tries = before + np.uint8(1)
        rests = tries >= self._max_tries
        wait_ns = np.int64(self._backoff_ns) << (tries.astype(np.int64) - 1)
        until_ns = now_ns + np.where(rests, np.int64(self._rest_ns), wait_ns)
        self._insert(page, node, src, tries, until_ns)
        return int(np.count_nonzero(rests))

    def _insert(
        self,
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        src: NDArray[np.uint8],
        tries: NDArray[np.uint8],
        until_ns: NDArray[np.int64],
    ) -> None:
        """Add rows of pages that have none, not on their way."""
        order = np.argsort(np.concatenate([self.page, page]))
        self.page = np.concatenate([self.page, page])[order]
        self.node = np.concatenate([self.node, node])[order]
        self.src = np.concatenate([self.src, src])[order]
        self.tries = np.concatenate([self.tries, tries])[order]
        self.until_ns = np.concatenate([self.until_ns, until_ns])[order]
        self.out = np.concatenate([self.out, np.zeros(len(page), np.bool_)])[order]

"""Pages that come and go too often stay on the host for a while.

After the thrashing detection of NVIDIA's managed memory (uvm_perf_thrashing.c in
the open kernel modules): so many returns within a lapse, then pinned, then let go
after a time. Time is counted in launches here.
"""

import numpy as np
from numpy.typing import NDArray

RETURNS = 3  # UVM: 3 events
WINDOW_EPOCHS = 8  # from leaving to coming back; a few grace periods
HOLD_EPOCHS = 300

Pages = NDArray[np.uint32]


class ThrashGuard:
    """Remembers pages that left lately.

    Args:
        returns: So many returns, each within the window, and a page is held.
        window_epochs: Launches between leaving and returning.
        hold_epochs: Launches for which a page is held.
    """

    def __init__(
        self,
        returns: int = RETURNS,
        window_epochs: int = WINDOW_EPOCHS,
        hold_epochs: int = HOLD_EPOCHS,
    ) -> None:
        self._returns = returns
        self._window = window_epochs
        self._hold = hold_epochs
        self._page = np.empty(0, np.uint32)  # ascending
        self._left = np.empty(0, np.int64)  # epoch in which it left last
        self._count = np.empty(0, np.int64)  # returns in a row so far
        self._until = np.empty(0, np.int64)  # epoch to which it is held

    def _find(self, page: Pages) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return rows of pages, and whether there is one."""
        at = np.searchsorted(self._page, page)
        inside = at < len(self._page)
        at[~inside] = 0
        if len(self._page):
            inside &= self._page[at] == page
        return at, inside

    def left(self, page: Pages, epoch: int) -> None:
        """Take note that pages, no page twice, have left."""
        at, known = self._find(page)
        self._left[at[known]] = epoch
        new = np.sort(page[~known])
        if not len(new):
            return
        where = np.searchsorted(self._page, new)
        self._page = np.insert(self._page, where, new)
        self._left = np.insert(self._left, where, epoch)
        self._count = np.insert(self._count, where, 0)
        self._until = np.insert(self._until, where, -1)

    def refuse(self, page: Pages, epoch: int) -> NDArray[np.bool_]:
        """Return which pages, that are to come, are held; count the others' return."""
        self._forget(epoch)
        refused = np.zeros(len(page), np.bool_)
        if not len(self._page):
            return refused
        at, known = self._find(page)
        row = at[known]
        soon = self._left[row] + self._window >= epoch
        self._count[row] = np.where(soon, self._count[row] + 1, 0)
        begins = (self._count[row] >= self._returns) & (self._until[row] < epoch)
        self._until[row[begins]] = epoch + self._hold
        self._count[row[begins]] = 0
        refused[known] = self._until[row] >= epoch
        return refused

    def hold(self, page: Pages, epoch: int) -> None:
        """Hold pages from now on: they are written faster than they can be copied."""
        self.left(page, epoch)
        at, _ = self._find(page)
        self._until[at] = epoch + self._hold

    def holds(self, epoch: int) -> int:
        """Return how many pages are held."""
        return int(np.count_nonzero(self._until >= epoch))

    def _forget(self, epoch: int) -> None:
        keep = (self._left + self._window >= epoch) | (self._until >= epoch)
        if not keep.all():
            self._page, self._left = self._page[keep], self._left[keep]
            self._count, self._until = self._count[keep], self._until[keep]

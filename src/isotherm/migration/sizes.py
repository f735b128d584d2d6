"""Carries out changes of page size, and learns what they cost."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import HugeMachine, HugePages
from isotherm.policy.plan import Outcome
from isotherm.policy.sizes import SizeChanges

#: Of what a change has just cost, believed at once; a change that took four times
#: as long as expected counts as four times (a thread that was not let run).
GAIN: Final = 0.1
DEAREST: Final = 4.0


@dataclass(slots=True)
class SizeTotals:
    """What became of all changes of page size.

    Attributes:
        collapses: Ranges collapsed.
        splits: Ranges split.
        failed: Changes that were not made, by errno.
        gathered_pages: Pages that a collapse brought from another node.
        collapse_ns: Time of all collapses, tried ones included.
        split_ns: Time of all splits, likewise.
    """

    collapses: int = 0
    splits: int = 0
    failed: dict[int, int] | None = None
    gathered_pages: int = 0
    collapse_ns: float = 0.0
    split_ns: float = 0.0


class Sizer:
    """Carries out what a plan says of page sizes, at once.

    Args:
        machine: One that can.

    Attributes:
        totals: What became of all changes.
        done: The changes that were made last.
        share: Below 1: somebody brakes, and nothing is changed.
    """

    def __init__(self, machine: HugeMachine) -> None:
        self._machine = machine
        self._cost_ns: dict[bool, float] = {}
        self.totals = SizeTotals(failed={})
        self.done = SizeChanges.none()
        self.tried = SizeChanges.none()
        self.errno = np.empty(0, np.int16)
        self.share = 1.0

    def look(self) -> HugePages:
        """Return which memory is huge, with costs as they were measured."""
        found = self._machine.huge_pages()
        return replace(
            found,
            split_ns=self._cost_ns.get(False, found.split_ns),
            collapse_ns=self._cost_ns.get(True, found.collapse_ns),
        )

    def resize(self, changes: SizeChanges) -> Outcome:
        """Carry out changes in order; return the pages that moved to another node.

        What was made is ``done`` until the next call; what failed is counted.
        """
        self.done = self.tried = SizeChanges.none()
        self.errno = np.empty(0, np.int16)
        if len(changes) == 0 or self.share < 1.0:
            return Outcome.none()
        machine = self._machine
        inside = np.arange(PAGES_PER_HUGE_PAGE, dtype=np.uint32)
        rows: NDArray[np.uint32] = (changes.page[:, None] + inside).ravel()
        before = machine.placement()[rows].copy()
        result = machine.resize(changes.page, changes.huge)
        after = machine.placement()[rows]
        ok = result.errno == 0
        self._account(changes, result.errno, result.cost_ns)
        self.done, self.tried, self.errno = changes.take(ok), changes, result.errno
        went = np.flatnonzero(after != before)
        self.totals.gathered_pages += len(went)
        return Outcome(
            rows[went],
            after[went].copy(),
            np.zeros(len(went), np.int16),
            float(result.cost_ns.sum()),
            before[went],
            np.full(len(went), machine.clock.now_ns(), np.int64),
        )

    def _account(
        self,
        changes: SizeChanges,
        errno: NDArray[np.int16],
        cost_ns: NDArray[np.float64],
    ) -> None:
        totals, failed = self.totals, self.totals.failed
        for huge in (False, True):
            mine = changes.huge == huge
            ok = mine & (errno == 0)
            spent, made = float(cost_ns[mine].sum()), int(np.count_nonzero(ok))
            if huge:
                totals.collapses += made
                totals.collapse_ns += spent
            else:
                totals.splits += made
                totals.split_ns += spent
            if made:
                known = self._cost_ns.get(huge, spent / made)
                each = min(spent / made, DEAREST * known)
                gain = 1.0 - (1.0 - GAIN) ** made
                self._cost_ns[huge] = known + gain * (each - known)
        if failed is not None:
            for code in errno[errno != 0].tolist():
                failed[code] = failed.get(code, 0) + 1

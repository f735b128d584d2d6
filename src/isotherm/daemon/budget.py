"""The daemon's own budget: longer epochs for CPU time, larger units for memory.

Pure. What an epoch costs hardly depends on how long it is, so the share of a core
that the daemon takes is cost over length; an epoch that is long enough keeps any
budget. Likewise the state that is kept is a number of bytes for each unit of
memory, and larger units keep any budget.
"""

from dataclasses import dataclass
from typing import Final

from isotherm.core.units import NS_PER_S, PAGE_BYTES, PAGES_PER_HUGE_PAGE

#: Epochs at the start that compile and fill caches: they decide nothing.
WARM_UP: Final = 3
#: How fast the cost of an epoch is followed.
FOLLOW: Final = 0.3
#: Epochs in a row that must have room before epochs get shorter again.
PATIENCE: Final = 8
#: Bytes of state a unit: tracker 4, policy 3, engine 4, columns of an epoch 7
#: (benchmarks/bench_daemon.py: 18 in all).
UNIT_BYTES: Final = 18.0
#: Bytes of state a page that no unit saves: where it is.
PAGE_STATE_BYTES: Final = 1.0


@dataclass(frozen=True, slots=True)
class Paced:
    """A change of the epoch's length.

    Attributes:
        before_s: Length before.
        after_s: Length now.
        cost_s: CPU time that an epoch costs.
        share: Of a core that it would have been without the change.
        kept: Whether the budget is kept: false at the longest epoch.
    """

    before_s: float
    after_s: float
    cost_s: float
    share: float
    kept: bool


class Pacer:
    """Chooses the length of the epochs.

    Args:
        epoch_s: Shortest.
        longest_s: Longest.
        cpu_share: Of one core, > 0.
    """

    def __init__(self, epoch_s: float, longest_s: float, cpu_share: float) -> None:
        self._shortest_s = epoch_s
        self._longest_s = max(epoch_s, longest_s)
        self._share = cpu_share
        self._epochs = 0
        self._roomy = 0
        self._cost_s: float | None = None
        self.epoch_s = epoch_s

    @property
    def cost_s(self) -> float:
        """CPU time of an epoch, smoothed."""
        return self._cost_s or 0.0

    def change(self, epoch_s: float, longest_s: float, cpu_share: float) -> None:
        """Go on with another shortest and longest epoch and another budget.

        What an epoch costs stays known: ``observe`` finds the length that keeps the
        budget.
        """
        self._shortest_s, self._longest_s = epoch_s, max(epoch_s, longest_s)
        self._share, self._roomy = cpu_share, 0
        self.epoch_s = min(max(self.epoch_s, epoch_s), self._longest_s)

    def observe(self, cpu_ns: float) -> Paced | None:
        """Take in the CPU time of one epoch; return the change of pace, if any."""
        self._epochs += 1
        if self._epochs <= WARM_UP:
            return None
        cost_s = cpu_ns / NS_PER_S
        if self._cost_s is None:
            self._cost_s = cost_s
        self._cost_s += FOLLOW * (cost_s - self._cost_s)
        needed_s = self._cost_s / self._share
        length_s = self._shortest_s
        while length_s < needed_s and length_s < self._longest_s:
            length_s = min(2 * length_s, self._longest_s)
        if length_s >= self.epoch_s:
            self._roomy = 0
        elif needed_s <= 0.8 * length_s:
            self._roomy += 1
        if length_s > self.epoch_s or self._roomy >= PATIENCE:
            before_s, self.epoch_s, self._roomy = self.epoch_s, length_s, 0
            return Paced(
                before_s,
                length_s,
                self._cost_s,
                self._cost_s / before_s,
                needed_s <= length_s,
            )
        return None


def state_bytes(pages: int, unit_pages: int) -> float:
    """Return the state kept for so many pages in units of so many."""
    return pages * (PAGE_STATE_BYTES + UNIT_BYTES / unit_pages)


def choose_unit(pages: int, permille: float, floor_bytes: float) -> int:
    """Return pages in a unit, a power of two up to 512, that keep the budget.

    Args:
        pages: Managed.
        permille: Of managed memory that the state may take.
        floor_bytes: State below this is never coarsened.

    >>> choose_unit(1 << 20, 1.0, 64 << 20), choose_unit(1 << 28, 1.0, 64 << 20)
    (1, 8)
    """
    allowed = max(floor_bytes, pages * PAGE_BYTES * permille / 1000)
    unit = 1
    while unit < PAGES_PER_HUGE_PAGE and state_bytes(pages, unit) > allowed:
        unit *= 2
    return unit

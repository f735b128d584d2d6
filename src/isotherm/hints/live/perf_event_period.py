"""How rarely to sample, so that it stays within a budget."""

from dataclasses import dataclass, field
from typing import Final

#: Time that a sample takes from the application: interrupt, handler, record.
#: Assumed, for this was never measured on hardware; the simulator charges 200 ns
#: for a PEBS record that is written without an interrupt.
SAMPLE_NS: Final = 2000.0
#: Periods grow at most by this at once, however far beyond the budget.
_MOST_STEP: Final = 16
#: Below this share of the budget it is sampled twice as often.
_IDLE: Final = 0.25


@dataclass(slots=True)
class PeriodControl:
    """The period of a sampler, moved after every look at what it cost.

    Attributes:
        period: Events per sample now.
        least: Never less: what the hardware takes.
        most: Never more.
        multiple: Of what the hardware takes: IBS counts in sixteens.
        budget: CPU time that sampling may take, of one CPU.
    """

    period: int
    least: int
    most: int
    multiple: int = 1
    budget: float = 0.02
    _asked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.period = self._fit(self.period)

    def ask(self, period: int) -> bool:
        """Never sample more often than this; return whether the period changed."""
        self._asked = period
        before, self.period = self.period, self._fit(period)
        return before != self.period

    def after(self, cost_ns: float, elapsed_ns: float, *, throttled: bool) -> bool:
        """Learn what the last stretch cost; return whether the period changed.

        Args:
            cost_ns: CPU time that sampling took, the application's and ours.
            elapsed_ns: Length of the stretch.
            throttled: Whether the kernel stopped the event for being too fast.

        >>> control = PeriodControl(4096, 1024, 1 << 27, 16, 0.01)
        >>> control.after(5e7, 1e9, throttled=False), control.period
        (True, 20480)
        >>> control.after(1e6, 1e9, throttled=False), control.period
        (True, 10240)
        """
        if elapsed_ns <= 0:
            return False
        share = cost_ns / elapsed_ns / self.budget
        before = self.period
        if throttled:
            self.period = self._fit(2 * self.period)
        if share > 1:
            self.period = self._fit(int(self.period * min(share, _MOST_STEP)))
        elif share < _IDLE and not throttled:
            self.period = self._fit(self.period // 2)
        return before != self.period

    def _fit(self, period: int) -> int:
        inside = min(self.most, max(self.least, self._asked, period))
        whole = -(-inside // self.multiple) * self.multiple
        return whole if whole <= self.most else whole - self.multiple

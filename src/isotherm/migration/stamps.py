"""When each page was last moved, and which way, in two bytes a page."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.machine.protocol import SpacesChanged

#: Clock steps in the window; the window is known to 1/64 of itself.
STEPS = 64
#: Stamps hold 15 bits of time; older ones are cleared before they come round.
_PERIOD = 1 << 15
_SWEEP = 1 << 14


class LastMove:
    """Counts pages that are moved back within a window: ping-pong.

    A stamp is the clock step modulo 2**15 in the upper fifteen bits, never 0,
    and the direction in the lowest, 1 for a promotion; 0 means that the page has
    not moved. (The TPP patches kept one such bit a page and counted promotions
    of pages once demoted; the time makes the count independent of how long the
    run lasts.)

    Args:
        pages: Length of the flat page index.
        window_ns: A move back within this time counts.
        start_ns: The time now.
    """

    def __init__(self, pages: int, window_ns: int, start_ns: int = 0) -> None:
        if window_ns < STEPS:
            raise ValueError(f"window_ns: expected >= {STEPS}, got {window_ns}")
        self._step_ns = window_ns // STEPS
        self._start_ns = start_ns
        self._swept = 0
        self._last = 0
        #: uint16[pages]
        self._stamp = np.zeros(pages, np.uint16)

    def renew(self, change: SpacesChanged) -> None:
        """Forget the moves of renewed pages; make room for new ones."""
        self._stamp = grown(self._stamp, change.pages)
        for start, end in change.renewed.tolist():
            self._stamp[start:end] = 0

    def record(
        self,
        now_ns: int,
        page: NDArray[np.uint32],
        up: NDArray[np.bool_],
    ) -> int:
        """Note that pages have moved; return how many of them moved back.

        Args:
            now_ns: The machine's time.
            page: Flat pages, uint32[n], none twice.
            up: True for a promotion, False for a demotion, bool[n].
        """
        step = max((now_ns - self._start_ns) // self._step_ns, self._last)
        self._sweep(step)
        before = self._stamp[page]
        now = _coded(step)
        back = (before != 0) & (_age(before, now) <= STEPS) & ((before & 1) != up)
        self._stamp[page] = now | up
        return int(np.count_nonzero(back))

    def _sweep(self, step: int) -> None:
        """Forget stamps older than the window, long before the clock wraps."""
        if step - self._swept >= _SWEEP:
            # Every stamp was made by ``_last`` at the latest.
            if step - self._last > STEPS:
                self._stamp[:] = 0
            else:
                self._stamp[_age(self._stamp, _coded(step)) > STEPS] = 0
            self._swept = step
        self._last = step


def _coded(step: int) -> np.uint16:
    """Return a stamp's upper fifteen bits."""
    return np.uint16((step % _PERIOD or 1) << 1)


def _age(stamp: NDArray[np.uint16], now: np.uint16) -> NDArray[np.uint16]:
    """Return how many steps ago stamps were made, modulo 2**15."""
    return (now - (stamp & np.uint16(0xFFFE))) >> np.uint16(1)

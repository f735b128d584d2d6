"""A hot set that has changed: seen by the hit rate, before any page's rate shows it.

What is known of a page is a decayed count; after a change of what is hot it is wrong
until it has decayed. Where the hit rate falls far below the usual for two epochs
together, the pattern has ended, and what is known holds with the chance that is left:
hit rate over usual hit rate. One epoch alone is a scan that passes.
"""

import math
from typing import Final

FALL: Final = 0.85  # of the usual hit rate: below, the pattern may have ended
SURE: Final = 4.0  # standard errors that the fall must be beyond chance
IN_A_ROW: Final = 2
FOLLOW: Final = 0.1  # how fast the usual follows, per epoch
PAUSE_EPOCHS: Final = 20  # until the placement can have followed


class ShiftDetector:
    """Follows the hit rate."""

    def __init__(self) -> None:
        self.shifts = 0
        self._usual = 0.0
        self._low = 0  # epochs in a row
        self._pause = 0

    def follow(self, hits: int, misses: int) -> float | None:
        """Take an epoch's counts.

        Returns:
            How far what is known still holds, in [0, 1), where the hot set has
            changed; None: it has not.
        """
        total = hits + misses
        if total == 0:
            return None
        rate = hits / total
        chance = SURE * math.sqrt(self._usual * (1.0 - self._usual) / total)
        low = rate < min(FALL * self._usual, self._usual - chance)
        self._low = self._low + 1 if low else 0
        if self._pause:
            self._pause -= 1
        elif self._low >= IN_A_ROW:
            trust = rate / self._usual
            self._usual, self._low, self._pause = rate, 0, PAUSE_EPOCHS
            self.shifts += 1
            return trust
        if not low or self._pause:
            self._usual += FOLLOW * (rate - self._usual)
        return None

"""Several readers of one accessed bit: what one clears the others do not see."""

from dataclasses import replace

import numpy as np

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import AccessedBits, HintBatch


class BitReaders:
    """Remembers who cleared accessed bits last.

    A bit that is set was set since its reader's last look, whoever else has read
    it. One that is clear may have been cleared by another reader: it says nothing
    of the time before that. Which blocks the other looked at is not kept: all are
    taken to have been.
    """

    def __init__(self) -> None:
        self._cleared_ns: dict[str, int] = {}

    def own(self, batch: HintBatch, seen: AccessedBits) -> AccessedBits:
        """Return bits with intervals in which nobody else has cleared them.

        Args:
            batch: The batch.
            seen: Its bits.
        """
        if not batch.capability.clears:
            return seen
        others = [t for s, t in self._cleared_ns.items() if s != batch.source]
        self._cleared_ns[batch.source] = batch.end_ns
        if not others:
            return seen
        most_s = max(0, batch.end_ns - max(others)) / NS_PER_S
        if (seen.interval_s <= most_s).all():
            return seen
        return replace(seen, interval_s=np.minimum(seen.interval_s, np.float32(most_s)))

"""Whether accessed bits show where the accesses go.

One bit stands for one access or for a burst of them. Where all bits together
show few of the accesses that a counting PMU knows of, and no page is so hot that
its bit, always set, could hold the rest, the rest comes in bursts, nobody knows
where: a page swept once, 64 accesses at a time, looks colder than one that is
touched now and then. Such bits say nothing of rates.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES, AccessedBits
from isotherm.hotness import arithmetic as ar
from isotherm.hotness.evidence import HISTORY_MASK

COUNTED_BLOCKS = 1 << 10  # of a look: enough
FULL = 0.9  # share of set bits at which a rate may be anything
FEW_FULL = 0.003  # of the pages: too few to hold what is unexplained
EXPLAINED = 0.3  # of the accesses: bits that show so many are trusted
DOUBTED = 0.15  # bits that show no more are not
GAIN = 0.3  # how fast both are followed, per look

FIRST_ROUNDS = 1.0  # looks at every page before anything is said

_SET = np.array([h.bit_count() for h in range(HISTORY_MASK + 1)])
_OCTAVE_SHIFT = ar.EXPOSURE_BITS + 5  # rate codes have 32 steps an octave
_GROUPS = (1 << (16 - _OCTAVE_SHIFT)) * 8


class BurstGuard:
    """Follows what share of the accesses the bits show."""

    def __init__(self) -> None:
        self._shown: float | None = None
        self._full = 0.0
        self._rounds = 0.0

    @property
    def trust(self) -> float:
        """How far bits show where the accesses go, in [0, 1]."""
        if self._shown is None or self._full > FEW_FULL:
            return 1.0
        share = (self._shown - DOUBTED) / (EXPLAINED - DOUBTED)
        return min(1.0, max(0.0, share))

    def follow(
        self,
        seen: AccessedBits,
        code: NDArray[np.uint16],
        history: NDArray[np.uint8],
        access_rate: float | None,
    ) -> None:
        """Add one look; pages are told apart by filter and last looks.

        Args:
            seen: Bits of whole blocks with known intervals.
            code: Filter of every page.
            history: Look history of every page, before this look.
            access_rate: Accesses per page per second, as counted; None: unknown,
                nothing can be said.
        """
        if not access_rate or not len(seen.block):
            return
        self._rounds += len(seen.block) * BLOCK_PAGES / len(history)
        if self._rounds < FIRST_ROUNDS:
            return
        few = slice(None, None, max(1, len(seen.block) // COUNTED_BLOCKS))
        page = seen.block[few].astype(np.int64)[:, None] * BLOCK_PAGES
        page = page + np.arange(BLOCK_PAGES)
        bit = np.unpackbits(seen.bits[few], bitorder="little")
        interval_s = np.repeat(seen.interval_s[few].astype(np.float64), BLOCK_PAGES)
        there = page.ravel() < len(history)
        page = page.ravel()[there]
        group = _SET[history[page] & HISTORY_MASK] + 8 * (code[page] >> _OCTAVE_SHIFT)
        bit, interval_s = bit[there], interval_s[there]
        count = np.bincount(group, minlength=_GROUPS).astype(np.float64)
        share = np.bincount(group, bit, _GROUPS) / np.maximum(count, 1.0)
        seconds = np.bincount(group, interval_s, _GROUPS) / np.maximum(count, 1.0)
        rate = -np.log1p(-np.minimum(share, 0.98)) / np.maximum(seconds, 1e-9)
        shown = float(count @ rate) / float(count.sum()) / access_rate
        full = float(count[share > FULL].sum() / count.sum())
        if self._shown is None:
            self._shown, self._full = shown, full
        self._shown += GAIN * (shown - self._shown)
        self._full += GAIN * (full - self._full)

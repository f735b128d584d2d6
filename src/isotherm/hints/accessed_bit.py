"""Accessed bits: page-table walks, striped so that every region is seen often."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import BLOCK_PAGES, AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability

Bits = NDArray[np.uint8]

#: Times are kept as 32 bits of 100 µs since the source was opened. An interval is
#: a difference modulo 2^32: right up to 119 hours without a look at a block.
TICK_NS = 100_000
NEVER = np.uint32(0xFFFFFFFF)  #: ticks of a block that was never cleared
TICKS_PER_S = NS_PER_S // TICK_NS


class PageTable(Protocol):
    """What a scan needs of a machine."""

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        ...

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...

    def read_accessed(
        self, first: int, last: int, step: int, node: int | None
    ) -> tuple[Bits, Bits, int]:
        """Read and clear the accessed bits of blocks ``first:last:step``.

        Returns:
            Bits and which pages were looked at, one byte a block, and the
            number of entries read.
        """
        ...

    def at(self, offset_ns: int, action: Callable[[int], None]) -> None:
        """Call ``action(now_ns)`` at an offset into the next epoch."""
        ...


class AccessedBitSource:
    """Reads and clears accessed bits where it is told to look.

    A look without a window reads what gathered since the bits were last
    cleared: one walk. A look with one does that, waits and reads again: two walks,
    and two observations of different depth. Bits that were never cleared have
    gathered for nobody knows how long: their interval is given as 0.

    Args:
        machine: The page table.
        entry_ns: Time to read and clear one entry, on a background CPU.
        epoch_ns: Length of an epoch; windows end with it.
    """

    mechanism = Mechanism.ACCESSED_BIT
    capability = Capability(clears=True)

    def __init__(self, machine: PageTable, entry_ns: float, epoch_ns: int) -> None:
        self._machine = machine
        self._entry_ns = entry_ns
        self._epoch_ns = epoch_ns
        self._blocks = -(-machine.pages // BLOCK_PAGES)
        self._cleared = np.full(self._blocks, NEVER, np.uint32)  # ticks
        self._looks: list[Look] = []
        self._done: list[HintBatch] = []
        self._start_ns = machine.now_ns()
        self._opened_ns = self._start_ns

    def _tick(self, now_ns: int) -> np.uint32:
        """Return a time as ticks since the source was opened, modulo 2^32."""
        ticks = (now_ns - self._opened_ns) // TICK_NS & 0xFFFFFFFF
        return np.uint32(min(ticks, 0xFFFFFFFE))  # NEVER is taken

    def look(self, looks: tuple[Look, ...]) -> None:
        """Arm the next epoch's looks; open windows at their time."""
        self._looks = [k for k in looks if k.mechanism is Mechanism.ACCESSED_BIT]
        for look in self._looks:
            if look.window_s is not None:
                wait_ns = min(self._epoch_ns, int(look.window_s * NS_PER_S))
                self._machine.at(
                    self._epoch_ns - wait_ns, partial(self._walk, look, opening=True)
                )

    def drain(self) -> tuple[HintBatch, ...]:
        """Read every armed look; a window gives two batches."""
        now_ns = self._machine.now_ns()
        for look in self._looks:
            self._walk(look, now_ns)
        self._looks = []
        done, self._done = self._done, []
        self._start_ns = now_ns
        return tuple(done)

    def _walk(self, look: Look, now_ns: int, *, opening: bool = False) -> None:
        """Read and clear the blocks of a look."""
        first = look.start_page // BLOCK_PAGES
        last = min(self._blocks, -(-look.end_page // BLOCK_PAGES))
        first += (look.stripe - first) % look.stripes
        step = look.stripes
        if first >= last:
            return
        bits, observed, entries = self._machine.read_accessed(
            first, last, step, look.node
        )
        cleared, tick = self._cleared[first:last:step], self._tick(now_ns)
        gathered = np.where(cleared == NEVER, np.uint32(0), tick - cleared)
        interval_s = (gathered / TICKS_PER_S).astype(np.float32)
        cleared[:] = tick
        seen = AccessedBits(
            np.arange(first, last, step, dtype=np.uint32),
            bits,
            interval_s,
            None if look.node is None and (observed == 0xFF).all() else observed,
            opening,
        )
        cost_ns = entries * self._entry_ns
        self._done.append(
            HintBatch(
                "accessed-bit",
                self._start_ns,
                now_ns,
                seen,
                background_ns=cost_ns,
                capability=self.capability,
            )
        )

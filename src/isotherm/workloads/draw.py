"""The loop that makes accesses: one 64-bit draw each, three small tables.

Of the 64 bits the high half picks a bin (alias table), the low half times the
bin's length gives the index within it, and what that product leaves over
decides whether the access writes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.workloads.rng import GOLDEN, LOW32, S32, draw_words, mix64
from isotherm.workloads.table import ROW_END, ROW_LENGTH, ROW_LOW, ROW_SPAN, DrawTable

ONE = np.uint64(1)
#: Accesses that the numpy twin makes at a time.
BLOCK = 1 << 16
#: Accesses whose index is made before their pages are looked up.
RUN = 1 << 11


def _draw_twin(
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    key: np.uint64,
    first: int,
    slots: NDArray[np.uint32],
    shift: int,
    rows: NDArray[np.uint32],
    page_map: NDArray[np.uint32],
    sweep: int,
    sweep_pages: int,
    burst: int,
    coin: int,
) -> int:
    for at in range(0, len(page), BLOCK):
        count = min(BLOCK, len(page) - at)
        word = draw_words(key, first + at, count)
        high = word >> S32
        slot = (high >> np.uint64(shift)).astype(np.int64)
        part = high & ((ONE << np.uint64(shift)) - ONE)
        chosen = slots[slot]
        row = rows[np.where(part < chosen[:, 0], slot, chosen[:, 1])]
        product = (word & LOW32) * row[:, ROW_LENGTH]
        index = row[:, ROW_LOW] + (product >> S32).astype(np.int64)
        wrapped = index >= row[:, ROW_END]
        index = np.where(wrapped, index - row[:, ROW_SPAN], index)
        if sweep_pages:
            swept = row[:, ROW_SPAN] == 0
            order = sweep + np.cumsum(swept) - 1
            index = np.where(swept, index + order // burst % sweep_pages, index)
            sweep = (sweep + int(swept.sum())) % (burst * sweep_pages)
        page[at : at + count] = page_map[index] if len(page_map) else index
        if len(write):
            write[at : at + count] = (product & LOW32) < np.uint64(coin)
    return sweep


@kernel(_draw_twin)
def draw(
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    key: np.uint64,
    first: int,
    slots: NDArray[np.uint32],
    shift: int,
    rows: NDArray[np.uint32],
    page_map: NDArray[np.uint32],
    sweep: int,
    sweep_pages: int,
    burst: int,
    coin: int,
) -> int:
    """Make ``len(page)`` accesses of a mixture; return the sweep's new position.

    Args:
        page: uint32[n], written.
        write: uint8[n], written; uint8[0] if nobody wants to know.
        key: Key of the draws.
        first: Number of draws made before.
        slots: ``DrawTable.slots``.
        shift: ``DrawTable.shift``.
        rows: ``DrawTable.rows``.
        page_map: Page of each index, uint32; uint32[0] for the index itself.
        sweep: Accesses made by the sweep, modulo ``burst * sweep_pages``.
        sweep_pages: Indices of the sweep, or 0.
        burst: Accesses at each index of the sweep.
        coin: Writes among 2^32 accesses.
    """
    state = key + np.uint64(first) * GOLDEN
    bits = np.uint64(shift)
    mask = (ONE << bits) - ONE
    limit = np.uint64(coin)
    at_page = np.int64(sweep // burst)
    at_access = np.int64(sweep % burst)
    mapped = len(page_map) > 0
    writes = len(write) > 0
    for start in range(0, len(page), RUN):
        stop = min(start + RUN, len(page))
        for i in range(start, stop):
            state += GOLDEN
            word = mix64(state)
            high = word >> S32
            slot = np.int64(high >> bits)
            # Arithmetic, not a branch: the processor could not predict it.
            beyond = np.int64((high & mask) >= np.uint64(slots[slot, 0]))
            chosen = slot + beyond * (np.int64(slots[slot, 1]) - slot)
            product = (word & LOW32) * np.uint64(rows[chosen, 1])
            index = np.int64(rows[chosen, 0]) + np.int64(product >> S32)
            span = np.int64(rows[chosen, 3])
            index -= np.int64(index >= np.int64(rows[chosen, 2])) * span
            if sweep_pages > 0:
                swept = np.int64(span == 0)
                index += swept * at_page
                at_access += swept
                full = np.int64(at_access == burst)
                at_access -= full * burst
                at_page += full
                at_page -= np.int64(at_page == sweep_pages) * sweep_pages
            page[i] = np.uint32(index)
            if writes:
                write[i] = np.uint8((product & LOW32) < limit)
        if mapped:  # apart, so that many of its cache misses run at once
            for i in range(start, stop):
                page[i] = page_map[page[i]]
    return int(at_page * burst + at_access)


class MixtureStream:
    """A stream drawn from a ``DrawTable``.

    Args:
        table: Copied; the stream may change its copy.
        page_map: Page of each index, uint32; uint32[0] for the index itself.
        key: Key of the draws.
        write_share: Share of accesses that write; None: the stream does not say.
        on_tick: What the definition changes when a tick begins.
    """

    def __init__(
        self,
        table: DrawTable,
        page_map: NDArray[np.uint32],
        key: np.uint64,
        write_share: float | None = None,
        on_tick: "Callable[[MixtureStream, int], None] | None" = None,
    ) -> None:
        self.table = table.copy()
        self.page_map = page_map
        self._key = key
        self._coin = 0 if write_share is None else round(write_share * (1 << 32))
        self._on_tick = on_tick
        self._made = 0
        self._sweep = 0

    def tick(self, tick: int) -> None:
        """Begin a tick."""
        if self._on_tick is not None:
            self._on_tick(self, tick)

    def skip(self, draws: int) -> None:
        """Go on as if ``draws`` more accesses had been made; not for sweeps."""
        self._made += draws

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses."""
        table = self.table
        self._sweep = int(
            draw(
                page,
                np.empty(0, np.uint8) if write is None else write,
                self._key,
                self._made,
                table.slots,
                table.shift,
                table.rows,
                self.page_map,
                self._sweep,
                table.sweep_pages,
                table.burst,
                self._coin,
            )
        )
        self._made += len(page)

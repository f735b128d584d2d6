"""Device memory in numpy, and the kernels that read and write it.

Every kernel is a generator: what stands between two ``yield`` is one step. Where steps
are held (``stepping.py``) they are small, a row and half a page at a time; otherwise
all that a kernel does is done in one.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.gpu.backend import (
    CHANGED,
    DIRTY,
    DONE,
    ON_HOST,
    Drained,
    Geometry,
    HbmExhaustedError,
    Launch,
)
from isotherm.gpu.elements import as_stored, as_sums, numpy_dtype
from isotherm.gpu.stepping import Kernel

#: Multiplier of Fibonacci hashing: 2**32 over the golden ratio (Knuth, TAOCP 6.4).
GOLDEN = np.uint32(0x9E3779B1)


class NumpyMemory:
    """Arenas, table, versions and counters, by the names in ``backend``.

    Args:
        geometry: The shape.
        host: The host arena.
        stepped: Whether kernels make small steps.

    Raises:
        HbmExhaustedError: There is no memory for the slots.
    """

    def __init__(
        self, geometry: Geometry, host: NDArray[np.uint8], *, stepped: bool
    ) -> None:
        expected = (geometry.pages, geometry.page_bytes)
        if host.shape != expected or not host.flags.c_contiguous:
            raise UsageError(
                f"host arena: expected {expected}, contiguous, got {host.shape}"
            )
        self.geometry = geometry
        self._stepped = stepped
        self.element = numpy_dtype(geometry.dtype)
        self.host = host
        try:
            self.slots = np.full((geometry.slots, geometry.page_bytes), 255, np.uint8)
        except MemoryError as error:
            raise HbmExhaustedError(
                f"device memory: {geometry.slots} slots of {geometry.page_bytes} bytes"
            ) from error
        self.loc = np.full(geometry.pages, ON_HOST, np.int32)
        self.ver = np.zeros(geometry.pages, np.uint32)
        self.misses = np.zeros(geometry.pages, np.uint32)
        self.dirty = np.zeros(geometry.slots, np.uint8)
        self.dep = np.zeros(geometry.slots, np.uint32)
        self.hits = np.zeros(geometry.slots, np.uint32)
        self.totals = np.zeros(4, np.int64)  # hits, misses, deposits, out of range
        self.bad_index: int | None = None
        self._counting = threading.Lock()  # two threads may gather at a time

    def _chunks(self, count: int) -> Iterator[slice]:
        """Yield the rows that a step takes: one where steps are held, else all."""
        size = 1 if self._stepped else max(1, count)
        return (slice(i, i + size) for i in range(0, count, size))

    def _halves(self, width: int) -> tuple[slice, ...]:
        """Return the columns that a step takes: a half where steps are held."""
        if not self._stepped or width < 2:
            return (slice(0, width),)
        return (slice(0, width // 2), slice(width // 2, width))

    def _rows(self, arena: NDArray[np.uint8]) -> NDArray[Any]:
        """Return an arena as elements [pages, rows_per_page, row_dim], a view."""
        g = self.geometry
        used = arena.view(self.element)[:, : g.rows_per_page * g.row_dim]
        return used.reshape(len(arena), g.rows_per_page, g.row_dim, copy=False)

    def _in_range(self, index: NDArray[Any], end: int) -> NDArray[np.int64]:
        """Return an index with what is outside made 0, and note it."""
        i = index.astype(np.int64)
        bad = (i < 0) | (i >= end)
        if bad.any():
            with self._counting:
                self.totals[3] += int(bad.sum())
                self.bad_index = int(i[bad][0])
            i[bad] = 0
        return i

    def _count(
        self,
        position: int,
        page: NDArray[np.int64],
        v: NDArray[np.int32],
        launch: Launch,
    ) -> None:
        """Count accesses: misses all, hits one in ``2**hit_shift`` by a hash."""
        hit = v >= 0
        slot = v[hit]
        row = np.arange(position, position + len(v), dtype=np.uint32)[hit]
        if launch.hit_shift:
            drawn = (row ^ np.uint32(launch.salt)) * GOLDEN
            counted = slot[drawn >> np.uint32(32 - launch.hit_shift) == 0]
        else:
            counted = slot
        with self._counting:
            add_ones(self.hits, counted)
            add_ones(self.misses, page[~hit])
            self.totals[0] += len(slot)
            self.totals[1] += len(v) - len(slot)

    def gather(
        self, index: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Kernel[None]:
        """Read rows."""
        g = self.geometry
        rows = self._in_range(index, g.rows)
        slots, host = self._rows(self.slots), self._rows(self.host)
        for some in self._chunks(len(rows)):
            page, off = np.divmod(rows[some], g.rows_per_page)
            v = self.loc[page]
            yield
            hit = v >= 0
            for part in self._halves(g.row_dim):
                piece = out[some, part]
                piece[hit] = slots[v[hit], off[hit], part]
                piece[~hit] = host[page[~hit], off[~hit], part]
                yield
            if launch.deposit and self.geometry.deposits:
                yield from self._deposit(page, v, launch)
            self._count(some.start, page, v, launch)

    def _deposit(
        self, page: NDArray[np.int64], v: NDArray[np.int32], launch: Launch
    ) -> Kernel[None]:
        """Store wanted pages, just read, in their slots."""
        want = v <= -2
        if not want.any():
            return
        slot, from_page = -2 - v[want], page[want]
        for part in self._halves(self.geometry.page_bytes):
            line = self.host[from_page, part]
            yield
            self.slots[slot, part] = line
            yield
        self.dep[slot] = launch.epoch
        with self._counting:
            self.totals[2] += len(slot)

    def bag(
        self,
        index: NDArray[Any],
        offsets: NDArray[Any],
        out: NDArray[Any],
        launch: Launch,
        mean: bool,
        weights: NDArray[Any] | None,
    ) -> Kernel[None]:
        """Read sums of rows."""
        g = self.geometry
        read = np.empty((len(index), g.row_dim), self.element)
        yield from self.gather(index, read, launch)
        rows = as_sums(read, g.dtype)
        if weights is not None:
            rows = rows * weights[:, None].astype(rows.dtype)
        start = offsets.astype(np.int64)
        length = np.diff(np.append(start, len(index)))
        total = np.zeros((len(start), g.row_dim), rows.dtype)
        for k in range(int(length.max(initial=0))):
            bag = np.flatnonzero(length > k)
            total[bag] += rows[start[bag] + k]
        if mean:
            total /= np.maximum(length, 1)[:, None].astype(rows.dtype)
        out[:] = as_stored(total, g.dtype)

    def blocks(
        self, table: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Kernel[None]:
        """Read whole pages."""
        g = self.geometry
        pages = self._in_range(table, g.pages)
        slots, host = self._rows(self.slots), self._rows(self.host)
        for some in self._chunks(len(pages)):
            page = pages[some]
            v = self.loc[page]
            yield
            hit = v >= 0
            for part in self._halves(g.row_dim):
                piece = out[some, :, part]
                piece[hit] = slots[v[hit], :, part]
                piece[~hit] = host[page[~hit], :, part]
                yield
            if launch.deposit:
                yield from self._deposit(page, v, launch)
            self._count(some.start, page, v, launch)

    def scatter(self, index: NDArray[Any], values: NDArray[Any]) -> Kernel[None]:
        """Write rows where they are."""
        g = self.geometry
        rows = index.astype(np.int64)
        inside = (rows >= 0) & (rows < g.rows)
        self._in_range(index, g.rows)
        rows, values = rows[inside], values[inside]
        slots, host = self._rows(self.slots), self._rows(self.host)
        for some in self._chunks(len(rows)):
            page, off = np.divmod(rows[some], g.rows_per_page)
            v = self.loc[page]
            yield
            hit = v >= 0
            self.dirty[v[hit]] = 1
            for part in self._halves(g.row_dim):
                piece = values[some, part]
                slots[v[hit], off[hit], part] = piece[hit]
                host[page[~hit], off[~hit], part] = piece[~hit]
                yield
        self.ver[np.unique(rows // g.rows_per_page)] += 1

    def want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Kernel[NDArray[np.uint32]]:
        """Ask for deposits."""
        version = self.ver[page]
        yield
        self.dep[slot] = 0
        yield
        self.loc[page] = -2 - slot.astype(np.int32)
        return version

    def deposited(self, slot: NDArray[np.uint32]) -> Kernel[NDArray[np.uint32]]:
        """Return the epochs of deposits."""
        yield
        return self.dep[slot]

    def copy(
        self,
        page: NDArray[np.uint32],
        source: NDArray[np.uint8],
        at: NDArray[np.uint32],
        target: NDArray[np.uint8],
        to: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint32]]:
        """Copy pages from one arena to the other; return their versions from before."""
        version = self.ver[page]
        yield
        for some in self._chunks(len(page)):
            for part in self._halves(self.geometry.page_bytes):
                target[to[some], part] = source[at[some], part]
                yield
        return version

    def commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint8]]:
        """Publish pages that have not been written."""
        same = self.ver[page] == version
        yield
        self.dirty[slot[same]] = 0
        self.hits[slot[same]] = 0
        yield
        self.loc[page[same]] = slot[same].astype(np.int32)
        return np.where(same, DONE, CHANGED).astype(np.uint8)

    def clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint8]]:
        """Note that slots are clean whose pages have not been written."""
        same = self.ver[page] == version
        yield
        self.dirty[slot[same]] = 0
        return np.where(same, DONE, CHANGED).astype(np.uint8)

    def unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Kernel[NDArray[np.uint8]]:
        """Send readers to the host arena, but those of dirty slots."""
        dirty = (self.dirty[slot] != 0) & (self.loc[page] >= 0)
        yield
        self.loc[page[~dirty]] = ON_HOST
        return np.where(dirty, DIRTY, DONE).astype(np.uint8)

    def dirty_slots(self) -> Kernel[NDArray[np.uint32]]:
        """Return the dirty slots."""
        yield
        return np.flatnonzero(self.dirty).astype(np.uint32)

    def drain(self, most: int | None) -> Kernel[Drained]:
        """Return what was counted, and forget it."""
        yield
        with self._counting:
            page = np.flatnonzero(self.misses).astype(np.uint32)
            count = self.misses[page]
            slot = np.flatnonzero(self.hits).astype(np.uint32)
            hits = self.hits[slot]
            totals, bad = self.totals.copy(), self.bad_index
            self.misses[page] = 0
            self.hits[slot] = 0
            self.totals[:] = 0
            self.bad_index = None
        left_out = 0
        if most is not None and len(page) > most:
            top = np.sort(np.argsort(count, kind="stable")[len(page) - most :])
            left_out = int(count.sum()) - int(count[top].sum())
            page, count = page[top], count[top]
        return Drained(
            page,
            count,
            slot,
            hits,
            int(totals[0]),
            int(totals[1]),
            int(totals[2]),
            left_out,
            int(totals[3]),
            bad,
        )

    def shrink(self, slots: int) -> None:
        """Keep the slots before ``slots``; nothing runs."""
        self.geometry = replace(self.geometry, slots=slots)
        self.slots = self.slots[:slots].copy()
        self.dirty = self.dirty[:slots].copy()
        self.dep = self.dep[:slots].copy()
        self.hits = self.hits[:slots].copy()


def add_ones(column: NDArray[np.uint32], at: NDArray[Any]) -> None:
    """Add one to ``column[at[i]]`` for each i."""
    if len(at) * 8 > len(column):
        column += np.bincount(at, minlength=len(column)).astype(np.uint32)
    else:
        np.add.at(column, at, np.uint32(1))

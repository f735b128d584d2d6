"""The device in numpy: the reference for the others, and the tier without a GPU.

Launches run when they are called, unless a ``Stepper`` holds them.
"""

import threading
from collections.abc import Iterator
from typing import Any, TypeVar

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
from isotherm.gpu.stepping import Kernel, Stepper, Task

T = TypeVar("T")

#: Multiplier of Fibonacci hashing: 2**32 over the golden ratio (Knuth, TAOCP 6.4).
GOLDEN = np.uint32(0x9E3779B1)


def create(
    geometry: Geometry,
    host: NDArray[np.uint8],
    *,
    stepper: Stepper | None = None,
    most_slots: int | None = None,
    zero_copy: bool = True,
) -> "NumpyBackend":
    """Return a device in ordinary memory.

    Args:
        geometry: The shape.
        host: The host arena, uint8[pages, page_bytes], C-contiguous.
        stepper: Holds launches until it is stepped; None: they run at once.
        zero_copy: As for other backends; here it makes no difference.
        most_slots: As if the device had memory for so many; None: no limit.

    Raises:
        HbmExhaustedError: There is no memory for the slots.
    """
    if most_slots is not None and geometry.slots > most_slots:
        raise HbmExhaustedError(
            f"device memory: {geometry.slots} slots asked for, {most_slots} there"
        )
    return NumpyBackend(geometry, host, stepper)


class NumpyBackend:
    """See ``create`` and ``backend.Backend``."""

    name = "numpy"
    device = "cpu"
    zero_copy = True
    failed: str | None = None

    def __init__(
        self, geometry: Geometry, host: NDArray[np.uint8], stepper: Stepper | None
    ) -> None:
        expected = (geometry.pages, geometry.page_bytes)
        if host.shape != expected or not host.flags.c_contiguous:
            raise UsageError(
                f"host arena: expected {expected}, contiguous, got {host.shape}"
            )
        self._geometry = geometry
        self._stepper = stepper
        self._element = numpy_dtype(geometry.dtype)
        self._host = host
        try:
            self._slots = np.full((geometry.slots, geometry.page_bytes), 255, np.uint8)
        except MemoryError as error:
            raise HbmExhaustedError(
                f"device memory: {geometry.slots} slots of {geometry.page_bytes} bytes"
            ) from error
        self._loc = np.full(geometry.pages, ON_HOST, np.int32)
        self._ver = np.zeros(geometry.pages, np.uint32)
        self._misses = np.zeros(geometry.pages, np.uint32)
        self._dirty = np.zeros(geometry.slots, np.uint8)
        self._dep = np.zeros(geometry.slots, np.uint32)
        self._hits = np.zeros(geometry.slots, np.uint32)
        self._touch = np.zeros(geometry.slots, np.uint32)
        self._totals = np.zeros(4, np.int64)  # hits, misses, deposits, out of range
        self._bad_index: int | None = None
        self._counting = threading.Lock()  # two threads may gather at a time
        self._ordering = threading.RLock()  # rule 4, where launches run at once
        self._ordered: Task[Any] | None = None  # rule 4, where they are stepped
        self._writers: list[Task[Any]] = []
        #: Lane of the launches from now on (``Stepper``); >= 1.
        self.stream = 1

    @property
    def geometry(self) -> Geometry:
        """The shape."""
        return self._geometry

    @property
    def deposits(self) -> bool:
        """Whether gathers deposit."""
        return self._geometry.deposits

    @property
    def host(self) -> NDArray[np.uint8]:
        """The host arena."""
        return self._host

    # -- arrays ------------------------------------------------------------

    def array(self, values: Any, dtype: str | None = None) -> NDArray[Any]:
        """Return values as an array."""
        return np.ascontiguousarray(
            values, None if dtype is None else numpy_dtype(dtype)
        )

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array of the tensor's dtype."""
        return np.empty(shape, self._element)

    def numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        """Wait for the launches so far and return a copy."""
        self.synchronise()
        return array.copy()

    # -- running -----------------------------------------------------------

    def _launch(self, kernel: Kernel[T], *, writes: bool = False) -> Task[T]:
        """Run a kernel on the caller's stream, or leave it to the stepper."""
        if self._stepper is None:
            task = Task(kernel)
            if writes:
                with self._ordering:
                    task.result()
            else:
                task.result()
            return task
        after = () if self._ordered is None or not writes else (self._ordered,)
        task = self._stepper.add(kernel, self.stream, after)
        if writes:
            self._writers.append(task)
        return task

    def _move(self, kernel: Kernel[T], *, looks_at_versions: bool = False) -> Task[T]:
        """Run a kernel on the mover's lane."""
        if self._stepper is None:
            task = Task(kernel)
            if looks_at_versions:
                with self._ordering:
                    task.result()
            else:
                task.result()
            return task
        self._writers = [task for task in self._writers if not task.done()]
        after = tuple(self._writers) if looks_at_versions else ()
        task = self._stepper.add(kernel, 0, after)
        if looks_at_versions:
            self._ordered = task
        return task

    def _chunks(self, count: int) -> Iterator[slice]:
        """Yield the rows that a step takes: one where steps are held, else all."""
        size = 1 if self._stepper else max(1, count)
        return (slice(i, i + size) for i in range(0, count, size))

    def _halves(self, width: int) -> tuple[slice, ...]:
        """Return the columns that a step takes: a half where steps are held."""
        if self._stepper is None or width < 2:
            return (slice(0, width),)
        return (slice(0, width // 2), slice(width // 2, width))

    # -- addresses ---------------------------------------------------------

    def _rows(self, arena: NDArray[np.uint8]) -> NDArray[Any]:
        """Return an arena as elements [pages, rows_per_page, row_dim], a view."""
        g = self._geometry
        used = arena.view(self._element)[:, : g.rows_per_page * g.row_dim]
        return used.reshape(len(arena), g.rows_per_page, g.row_dim, copy=False)

    def _in_range(self, index: NDArray[Any], end: int) -> NDArray[np.int64]:
        """Return an index with what is outside made 0, and note it."""
        i = index.astype(np.int64)
        bad = (i < 0) | (i >= end)
        if bad.any():
            with self._counting:
                self._totals[3] += int(bad.sum())
                self._bad_index = int(i[bad][0])
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
            self._touch[slot] = launch.epoch
            add_ones(self._hits, counted)
            add_ones(self._misses, page[~hit])
            self._totals[0] += len(slot)
            self._totals[1] += len(v) - len(slot)

    # -- launches ----------------------------------------------------------

    def gather(
        self, index: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Read rows."""
        return self._launch(self._gather(index, out, launch))

    def _gather(
        self, index: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Kernel[None]:
        g = self._geometry
        rows = self._in_range(index, g.rows)
        slots, host = self._rows(self._slots), self._rows(self._host)
        for some in self._chunks(len(rows)):
            page, off = np.divmod(rows[some], g.rows_per_page)
            v = self._loc[page]
            yield
            hit = v >= 0
            for part in self._halves(g.row_dim):
                piece = out[some, part]
                piece[hit] = slots[v[hit], off[hit], part]
                piece[~hit] = host[page[~hit], off[~hit], part]
                yield
            if launch.deposit and self.deposits:
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
        for part in self._halves(self._geometry.page_bytes):
            line = self._host[from_page, part]
            yield
            self._slots[slot, part] = line
            yield
        self._dep[slot] = launch.epoch
        with self._counting:
            self._totals[2] += len(slot)

    def gather_bag(
        self,
        index: NDArray[Any],
        offsets: NDArray[Any],
        out: NDArray[Any],
        launch: Launch,
        *,
        mean: bool = False,
        weights: NDArray[Any] | None = None,
    ) -> Task[None]:
        """Read sums of rows."""
        return self._launch(self._bag(index, offsets, out, launch, mean, weights))

    def _bag(
        self,
        index: NDArray[Any],
        offsets: NDArray[Any],
        out: NDArray[Any],
        launch: Launch,
        mean: bool,
        weights: NDArray[Any] | None,
    ) -> Kernel[None]:
        g = self._geometry
        read = self.empty((len(index), g.row_dim))
        yield from self._gather(index, read, launch)
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

    def read_blocks(
        self, table: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Read whole pages."""
        return self._launch(self._blocks(table, out, launch))

    def _blocks(
        self, table: NDArray[Any], out: NDArray[Any], launch: Launch
    ) -> Kernel[None]:
        g = self._geometry
        pages = self._in_range(table, g.pages)
        slots, host = self._rows(self._slots), self._rows(self._host)
        for some in self._chunks(len(pages)):
            page = pages[some]
            v = self._loc[page]
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

    def scatter(
        self, index: NDArray[Any], values: NDArray[Any], launch: Launch
    ) -> Task[None]:
        """Write rows where they are."""
        return self._launch(self._scatter(index, values), writes=True)

    def _scatter(self, index: NDArray[Any], values: NDArray[Any]) -> Kernel[None]:
        g = self._geometry
        rows = index.astype(np.int64)
        inside = (rows >= 0) & (rows < g.rows)
        self._in_range(index, g.rows)
        rows, values = rows[inside], values[inside]
        slots, host = self._rows(self._slots), self._rows(self._host)
        for some in self._chunks(len(rows)):
            page, off = np.divmod(rows[some], g.rows_per_page)
            v = self._loc[page]
            yield
            hit = v >= 0
            self._dirty[v[hit]] = 1
            for part in self._halves(g.row_dim):
                piece = values[some, part]
                slots[v[hit], off[hit], part] = piece[hit]
                host[page[~hit], off[~hit], part] = piece[~hit]
                yield
        self._ver[np.unique(rows // g.rows_per_page)] += 1

    # -- the mover's lane ----------------------------------------------------

    def want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Ask for deposits."""
        return self._move(self._want(page.copy(), slot.copy()))

    def _want(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Kernel[NDArray[np.uint32]]:
        version = self._ver[page]
        yield
        self._dep[slot] = 0
        yield
        self._loc[page] = -2 - slot.astype(np.int32)
        return version

    def deposited(self, slot: NDArray[np.uint32]) -> Task[NDArray[np.uint32]]:
        """Return the epochs of deposits."""
        return self._move(self._deposited(slot.copy()))

    def _deposited(self, slot: NDArray[np.uint32]) -> Kernel[NDArray[np.uint32]]:
        yield
        return self._dep[slot]

    def copy_in(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Copy pages into slots."""
        return self._move(
            self._copy(page.copy(), self._host, page.copy(), self._slots, slot.copy())
        )

    def copy_out(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint32]]:
        """Copy pages back."""
        return self._move(
            self._copy(page.copy(), self._slots, slot.copy(), self._host, page.copy())
        )

    def _copy(
        self,
        page: NDArray[np.uint32],
        source: NDArray[np.uint8],
        at: NDArray[np.uint32],
        target: NDArray[np.uint8],
        to: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint32]]:
        version = self._ver[page]
        yield
        for some in self._chunks(len(page)):
            for part in self._halves(self._geometry.page_bytes):
                target[to[some], part] = source[at[some], part]
                yield
        return version

    def commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Task[NDArray[np.uint8]]:
        """Publish pages that have not been written."""
        kernel = self._commit(page.copy(), slot.copy(), version.copy())
        return self._move(kernel, looks_at_versions=True)

    def _commit(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint8]]:
        same = self._ver[page] == version
        yield
        self._dirty[slot[same]] = 0
        self._hits[slot[same]] = 0
        self._touch[slot[same]] = 0
        yield
        self._loc[page[same]] = slot[same].astype(np.int32)
        return np.where(same, DONE, CHANGED).astype(np.uint8)

    def clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Task[NDArray[np.uint8]]:
        """Note that slots are clean whose pages have not been written."""
        kernel = self._clean(page.copy(), slot.copy(), version.copy())
        return self._move(kernel, looks_at_versions=True)

    def _clean(
        self,
        page: NDArray[np.uint32],
        slot: NDArray[np.uint32],
        version: NDArray[np.uint32],
    ) -> Kernel[NDArray[np.uint8]]:
        same = self._ver[page] == version
        yield
        self._dirty[slot[same]] = 0
        return np.where(same, DONE, CHANGED).astype(np.uint8)

    def unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Task[NDArray[np.uint8]]:
        """Send readers to the host arena."""
        kernel = self._unpublish(page.copy(), slot.copy())
        return self._move(kernel, looks_at_versions=True)

    def _unpublish(
        self, page: NDArray[np.uint32], slot: NDArray[np.uint32]
    ) -> Kernel[NDArray[np.uint8]]:
        dirty = (self._dirty[slot] != 0) & (self._loc[page] >= 0)
        yield
        self._loc[page[~dirty]] = ON_HOST
        return np.where(dirty, DIRTY, DONE).astype(np.uint8)

    def dirty_slots(self) -> Task[NDArray[np.uint32]]:
        """Return the dirty slots."""
        return self._move(self._dirty_slots())

    def _dirty_slots(self) -> Kernel[NDArray[np.uint32]]:
        yield
        return np.flatnonzero(self._dirty).astype(np.uint32)

    def drain(self, most: int | None = None) -> Task[Drained]:
        """Return what was counted."""
        return self._move(self._drain(most))

    def _drain(self, most: int | None) -> Kernel[Drained]:
        yield
        with self._counting:
            page = np.flatnonzero(self._misses).astype(np.uint32)
            count = self._misses[page]
            slot = np.flatnonzero(self._hits).astype(np.uint32)
            hits = self._hits[slot]
            totals, bad = self._totals.copy(), self._bad_index
            touch = self._touch.copy()
            self._misses[page] = 0
            self._hits[slot] = 0
            self._totals[:] = 0
            self._bad_index = None
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
            touch,
            int(totals[0]),
            int(totals[1]),
            int(totals[2]),
            left_out,
            int(totals[3]),
            bad,
        )

    # -- the rest ------------------------------------------------------------

    def peek(self, name: str) -> NDArray[Any]:
        """Wait and return a copy of device state."""
        self.synchronise()
        state: dict[str, NDArray[Any]] = {
            "slots": self._slots,
            "loc": self._loc,
            "ver": self._ver,
            "dirty": self._dirty,
            "dep": self._dep,
        }
        return state[name].copy()

    def shrink(self, slots: int) -> None:
        """Give back the slots from ``slots`` on."""
        self.synchronise()
        g = self._geometry
        self._geometry = Geometry(g.rows, g.row_dim, g.dtype, g.rows_per_page, slots)
        self._slots = self._slots[:slots].copy()
        self._dirty = self._dirty[:slots].copy()
        self._dep = self._dep[:slots].copy()
        self._hits = self._hits[:slots].copy()
        self._touch = self._touch[:slots].copy()

    def synchronise(self) -> None:
        """Run what the stepper holds."""
        if self._stepper is not None:
            self._stepper.run()

    def close(self) -> None:
        """Run what is left; free the slots."""
        self.synchronise()
        self._slots = self._slots[:0]


def add_ones(column: NDArray[np.uint32], at: NDArray[Any]) -> None:
    """Add one to ``column[at[i]]`` for each i."""
    if len(at) * 8 > len(column):
        column += np.bincount(at, minlength=len(column)).astype(np.uint32)
    else:
        np.add.at(column, at, np.uint32(1))

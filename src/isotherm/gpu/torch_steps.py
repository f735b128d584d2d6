"""What launches and the mover do with the arrays of a tensor, in plain torch.

``State`` holds the arrays; ``Steps`` is what a kernel language owes; ``TorchSteps``
is the one that runs wherever torch does, and the only one where the device cannot
read the host arena in place.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from isotherm.gpu.backend import (
    CHANGED,
    DIRTY,
    DONE,
    ON_HOST,
    Geometry,
    Launch,
)
from isotherm.gpu.drained import (
    BAD_INDEX,
    HITS,
    MISSES,
    OUT_OF_RANGE,
    STATS,
    STRIPES,
)
from isotherm.gpu.elements import SUM_DTYPE
from isotherm.gpu.torch_device import Device

#: Words by which rows are moved: the widest that divides one.
_WORD = {4: torch.int32, 2: torch.int16, 1: torch.int8}

#: 2**32 over the golden ratio, as in ``numpy_backend``.
_GOLDEN = 0x9E3779B1


@dataclass(slots=True, eq=False)
class State:
    """The arrays of a tensor, on the device but for what ``host`` says.

    uint32 of the seam is int32 here, bit for bit: torch lacks arithmetic on it.

    Attributes:
        geometry: The shape.
        device: Where they are.
        zero_copy: ``host`` can be read on the device; else it is a CPU tensor.
        slots: uint8[slots, page_bytes].
        host: uint8[pages, page_bytes].
        loc: int32[pages].
        ver: int32[pages]; one zero for all of them until something is written.
        misses: int32[pages].
        dirty: uint8[slots].
        dep: int32[slots].
        hits: int32[slots].
        stats: int64[STRIPES, STATS].
    """

    geometry: Geometry
    device: Device
    zero_copy: bool
    slots: Any
    host: Any
    loc: Any
    ver: Any
    misses: Any
    dirty: Any
    dep: Any
    hits: Any
    stats: Any

    @classmethod
    def create(
        cls, geometry: Geometry, host: Any, device: Device, zero_copy: bool
    ) -> "State":
        """Return the state of a tensor of which nothing is resident."""
        where = device.torch

        def column(size: int, value: int = 0, dtype: Any = torch.int32) -> Any:
            return torch.full((size,), value, dtype=dtype, device=where)

        g = geometry
        return cls(
            geometry=g,
            device=device,
            zero_copy=zero_copy,
            slots=torch.full(
                (g.slots, g.page_bytes), 255, dtype=torch.uint8, device=where
            ),
            host=host,
            loc=column(g.pages, ON_HOST),
            ver=column(1).expand(g.pages),
            misses=column(g.pages),
            dirty=column(g.slots, dtype=torch.uint8),
            dep=column(g.slots),
            hits=column(g.slots),
            stats=torch.zeros((STRIPES, STATS), dtype=torch.int64, device=where),
        )

    @property
    def meta_bytes(self) -> int:
        """Device memory beside the slots."""
        by_page = (self.loc, self.ver, self.misses)
        by_slot = (self.dirty, self.dep, self.hits)
        columns = (*by_page, *by_slot, self.stats)
        return int(sum(c.untyped_storage().nbytes() for c in columns))

    @property
    def has_versions(self) -> bool:
        """Whether every page has a version of its own."""
        return bool(self.ver.stride(0) != 0)

    def keep_versions(self) -> None:
        """Give every page a version of its own: 4 bytes that only writing needs."""
        if not self.has_versions:
            zeros = torch.zeros(self.geometry.pages, dtype=torch.int32)
            self.ver = zeros.to(self.device.torch)
            self.device.synchronise()  # other streams may look at once

    @property
    def word_bytes(self) -> int:
        """Bytes of a word: 4, 2 or 1."""
        return next(w for w in _WORD if self.geometry.row_bytes % w == 0)

    def words(self, tensor: Any) -> Any:
        """Return a contiguous tensor as words, a view."""
        return tensor.view(_WORD[self.word_bytes])

    def rows(self, arena: Any) -> Any:
        """Return an arena as elements [pages, rows_per_page, row_dim], a view."""
        g = self.geometry
        elements = arena.view(getattr(torch, g.dtype))
        used = elements[:, : g.rows_per_page * g.row_dim]
        return used.unflatten(1, (g.rows_per_page, g.row_dim))

    def shrink(self, slots: int) -> None:
        """Keep the first ``slots`` slots; nothing runs.

        Where device memory is too short for a second arena, the slots that stay
        wait in host memory meanwhile.
        """
        self.geometry = replace(self.geometry, slots=slots)
        kept = self.slots[:slots]
        try:
            self.slots = kept.clone()
        except torch.cuda.OutOfMemoryError:
            kept = kept.cpu()
            self.slots = None
            torch.cuda.empty_cache()
            self.slots = kept.to(self.device.torch)
        for name in ("dirty", "dep", "hits"):
            setattr(self, name, getattr(self, name)[:slots].clone())

    def free(self) -> None:
        """Let go of the arenas."""
        self.slots = self.slots[:0].clone() if self.device.failed is None else None
        self.host = None


class Steps(Protocol):
    """The work of launches and of the mover, on the current stream."""

    @property
    def name(self) -> str:
        """Name of the backend."""
        ...

    @property
    def atomic(self) -> bool:
        """Whether counters are exact when launches and drains run side by side."""
        ...

    @property
    def deposits(self) -> bool:
        """Whether gathers can deposit."""
        ...

    def gather(self, state: State, index: Any, out: Any, launch: Launch) -> None:
        """As ``Backend.gather``."""
        ...

    def gather_bag(
        self,
        state: State,
        index: Any,
        offsets: Any,
        out: Any,
        launch: Launch,
        mean: bool,
        weights: Any | None,
    ) -> None:
        """As ``Backend.gather_bag``."""
        ...

    def read_blocks(self, state: State, table: Any, out: Any, launch: Launch) -> None:
        """As ``Backend.read_blocks``."""
        ...

    def scatter(self, state: State, index: Any, values: Any) -> None:
        """As ``Backend.scatter``."""
        ...

    def want(self, state: State, page: Any, slot: Any) -> Any:
        """As ``Backend.want``; columns and answer int32[n]."""
        ...

    def copy(self, state: State, page: Any, slot: Any, *, out: bool) -> None:
        """Copy pages into slots, or slots out to pages; n >= 1."""
        ...

    def commit(self, state: State, page: Any, slot: Any, version: Any) -> Any:
        """As ``Backend.commit``; uint8[n]."""
        ...

    def unpublish(self, state: State, page: Any, slot: Any) -> Any:
        """As ``Backend.unpublish``; uint8[n]."""
        ...

    def take_counts(self, counter: Any) -> tuple[Any, Any, Any]:
        """Zero counters; return number int32[], count int32[], their length int32[1].

        A length beyond the columns says that more are left, not zeroed.
        """
        ...

    def take_totals(self, state: State) -> Any:
        """Zero ``stats``; return int64[STATS], with one bad index where there is."""
        ...


class TorchSteps:
    """See the module."""

    name = "torch"
    atomic = False
    deposits = False

    def gather(self, state: State, index: Any, out: Any, launch: Launch) -> None:
        """Read rows, those in slots and those on the host apart."""
        g = state.geometry
        i = _in_range(state, index.long(), g.rows)
        page, off = i // g.rows_per_page, i % g.rows_per_page
        v = state.loc[page].long()
        hit, miss = torch.nonzero(v >= 0)[:, 0], torch.nonzero(v < 0)[:, 0]
        out[hit] = state.rows(state.slots)[v[hit], off[hit]]
        out[miss] = _from_host(state, (page[miss], off[miss]))
        _count(state, page, v, launch)

    def gather_bag(
        self,
        state: State,
        index: Any,
        offsets: Any,
        out: Any,
        launch: Launch,
        mean: bool,
        weights: Any | None,
    ) -> None:
        """Read rows, then add them bag by bag, the k-th rows of all bags at once."""
        g = state.geometry
        wide = getattr(torch, SUM_DTYPE[g.dtype].name)
        read = torch.empty((len(index), g.row_dim), dtype=out.dtype, device=out.device)
        self.gather(state, index, read, launch)
        rows = read.to(wide)
        if weights is not None:
            rows *= weights[:, None].to(wide)
        start = offsets.long()
        length = torch.diff(start, append=start.new_tensor([len(index)]))
        total = torch.zeros(out.shape, dtype=wide, device=out.device)
        for k in range(int(length.max()) if len(length) else 0):
            bag = torch.nonzero(length > k)[:, 0]
            total[bag] += rows[start[bag] + k]
        if mean:
            total /= length.clamp(min=1)[:, None].to(wide)
        out.copy_(total)

    def read_blocks(self, state: State, table: Any, out: Any, launch: Launch) -> None:
        """Read whole pages."""
        page = _in_range(state, table.long(), state.geometry.pages)
        v = state.loc[page].long()
        hit, miss = torch.nonzero(v >= 0)[:, 0], torch.nonzero(v < 0)[:, 0]
        out[hit] = state.rows(state.slots)[v[hit]]
        out[miss] = _from_host(state, (page[miss],))
        _count(state, page, v, launch)

    def scatter(self, state: State, index: Any, values: Any) -> None:
        """Write rows where they are, then raise the versions."""
        g = state.geometry
        state.keep_versions()
        i = index.long()
        inside = (i >= 0) & (i < g.rows)
        _in_range(state, i, g.rows)
        chosen = torch.nonzero(inside & last_of_equal(i))[:, 0]
        i, values = i[chosen], values[chosen]
        page, off = i // g.rows_per_page, i % g.rows_per_page
        v = state.loc[page].long()
        hit, miss = torch.nonzero(v >= 0)[:, 0], torch.nonzero(v < 0)[:, 0]
        state.rows(state.slots)[v[hit], off[hit]] = values[hit]
        where = (page[miss], off[miss])
        if state.zero_copy:
            state.rows(state.host)[where] = values[miss]
        else:
            state.rows(state.host)[tuple(w.cpu() for w in where)] = values[miss].cpu()
        state.dirty[v[hit]] = 1
        state.ver.index_add_(0, page, torch.ones_like(page, dtype=torch.int32))

    def want(self, state: State, page: Any, slot: Any) -> Any:
        """Clear ``dep``, then store the wish."""
        version = state.ver.index_select(0, page)
        state.dep[slot.long()] = 0
        state.loc[page.long()] = -2 - slot
        return version

    def copy(self, state: State, page: Any, slot: Any, *, out: bool) -> None:
        """Copy pages by index; staged where the device does not see the host."""
        page, slot = page.long(), slot.long()
        if out:
            rows = state.slots[slot]
            if not state.zero_copy:
                rows, page = rows.cpu(), page.cpu()
            state.host[page] = rows
        else:
            state.slots[slot] = _from_host(state, (page,), whole=True)

    def commit(self, state: State, page: Any, slot: Any, version: Any) -> Any:
        """Ready the slots, then store ``loc``."""
        page, slot = page.long(), slot.long()
        same = state.ver[page] == version
        for column in (state.dirty, state.hits):
            column[slot] = column[slot] * ~same
        state.loc[page] = torch.where(same, slot.int(), state.loc[page])
        return torch.where(same, DONE, CHANGED)

    def unpublish(self, state: State, page: Any, slot: Any) -> Any:
        """Store -1 in ``loc`` of all but dirty ones."""
        page, slot = page.long(), slot.long()
        was = state.loc[page]
        dirty = (state.dirty[slot] != 0) & (was >= 0)
        state.loc[page] = torch.where(dirty, was, ON_HOST)
        return torch.where(dirty, DIRTY, DONE)

    def take_counts(self, counter: Any) -> tuple[Any, Any, Any]:
        """List what is not zero."""
        number = torch.nonzero(counter)[:, 0]
        count = counter[number]
        counter.zero_()
        length = torch.tensor([len(number)], dtype=torch.int32, device=counter.device)
        return number.int(), count, length

    def take_totals(self, state: State) -> Any:
        """Sum the stripes."""
        taken = state.stats.clone()
        state.stats.zero_()
        return total_of(taken)


def total_of(stats: Any) -> Any:
    """Return the sums over the stripes, int64[STATS], and one bad index of theirs."""
    total = stats.sum(dim=0)
    worst = stats[:, OUT_OF_RANGE].argmax().reshape(1)
    total[BAD_INDEX] = stats[:, BAD_INDEX].index_select(0, worst)[0]
    return total


def last_of_equal(index: Any) -> Any:
    """Return which positions hold the last of equal indices, bool[n]."""
    ordered, position = torch.sort(index, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    chosen = torch.empty_like(last)
    chosen[position] = last
    return chosen


def _in_range(state: State, i: Any, end: int) -> Any:
    """Return an index with what is outside made 0, and note it."""
    bad = (i < 0) | (i >= end)
    state.stats[0, OUT_OF_RANGE] += bad.sum()
    if len(i):
        some = i.gather(0, bad.to(torch.uint8).argmax().reshape(1))[0]
        old = state.stats[0, BAD_INDEX]
        state.stats[0, BAD_INDEX] = torch.where(bad.any(), some, old)
    return i.masked_fill(bad, 0)


def _from_host(state: State, where: tuple[Any, ...], *, whole: bool = False) -> Any:
    """Return rows, or pages padding and all, of the host arena, on the device."""
    arena = state.host if whole else state.rows(state.host)
    if state.zero_copy:
        return arena[where]
    return arena[tuple(w.cpu() for w in where)].to(state.device.torch)


def _count(state: State, page: Any, v: Any, launch: Launch) -> None:
    """Count misses all, hits by the sample that every backend draws."""
    hit = v >= 0
    missed = page[~hit]
    state.misses.index_add_(0, missed, torch.ones_like(missed, dtype=torch.int32))
    state.stats[0, HITS] += hit.sum()
    state.stats[0, MISSES] += (~hit).sum()
    if launch.hit_shift:
        k = torch.arange(len(v), device=v.device)
        drawn = ((k ^ launch.salt) * _GOLDEN) & 0xFFFFFFFF
        counted = v[hit & (drawn >> (32 - launch.hit_shift) == 0)]
    else:
        counted = v[hit]
    state.hits.index_add_(0, counted, torch.ones_like(counted, dtype=torch.int32))


def signed(number: int) -> int:
    """Return the int32 with the bits of a uint32.

    >>> signed(7), signed(2**32 - 1)
    (7, -1)
    """
    return (number ^ 0x80000000) - 0x80000000

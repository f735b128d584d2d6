"""Who reads the table: ours, what it must beat, and what bounds it."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_data import Rig, Table, place
from isotherm.gpu.backend import Geometry, Launch, Pending
from isotherm.gpu.building import DEVICE_HIT_SHIFT, EPOCH_ROWS, EPOCH_SHARE
from isotherm.gpu.engine import Engine
from isotherm.gpu.machine import TensorMachine, measure
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import SlotProtocol
from isotherm.gpu.tiering import Tiering
from isotherm.topology.model import Source


class Contender(Protocol):
    """Reads batches of rows."""

    name: str

    def read(self, index: Any, out: Any) -> None:
        """Read rows on the current stream."""
        ...

    def between(self, batch: int) -> None:
        """Do what a policy does beside the launches, after each batch."""
        ...

    def counted(self) -> tuple[int, int]:
        """Return hits and misses since the last call; waits."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return bytes moved, device memory beside the data, and so on."""
        ...

    def close(self) -> None:
        """Free memory."""
        ...


class Static:
    """Some pages resident for good: the oracle, all in HBM, or nothing at all."""

    def __init__(
        self,
        name: str,
        rig: Rig,
        table: Table,
        geometry: Geometry,
        pages: NDArray[np.uint32],
        **options: Any,
    ) -> None:
        self.name = name
        self.device: Any = rig.make(table, geometry, **options)
        place(self.device, pages)
        self.device.drain().result()
        self._epoch = 0

    def read(self, index: Any, out: Any) -> None:
        """Read rows."""
        self._epoch += 1
        self.device.gather(
            index, out, Launch(self._epoch, self._epoch, 4, deposit=False)
        )

    def between(self, batch: int) -> None:
        """Do nothing."""

    def counted(self) -> tuple[int, int]:
        """Drain."""
        drained = self.device.drain().result()
        return drained.hits, drained.misses

    def facts(self) -> dict[str, Any]:
        """Return device memory beside the data."""
        state = getattr(self.device, "state", None)
        return {} if state is None else {"meta_bytes": state.meta_bytes}

    def close(self) -> None:
        """Free memory."""
        self.device.close()


class Ours:
    """The tier with its own tracker, policy, migration and engine, as a tensor has it.

    Args:
        rig: The device.
        table: The host arena.
        geometry: Rows.
        every: Batches per epoch, ended between batches; 0: the engine's own thread
            ends them, beside the batches.
        copies: Pages are copied in, and never deposited.
        writable: Pages may be written.
        hit_shift: One hit in ``2**hit_shift`` is counted.
        options: Of the backend.
    """

    def __init__(
        self,
        rig: Rig,
        table: Table,
        geometry: Geometry,
        *,
        every: int,
        copies: bool = False,
        writable: bool = False,
        hit_shift: int = DEVICE_HIT_SHIFT,
        **options: Any,
    ) -> None:
        self.name = "ours" + (", thread" if every == 0 else "")
        self.name += ", copies only" if copies else ""
        self.device: Any = rig.make(table, geometry, **options)
        deposits = self.device.deposits and not copies
        protocol = SlotProtocol(
            geometry.pages, geometry.slots, writable=writable, deposits=deposits
        )
        self.mover = Mover(self.device, protocol, hit_shift=hit_shift)
        # A CPU reads both arenas alike: to it no page would be worth a slot.
        figures: dict[str, Any] = {}
        if rig.cuda:
            hbm, host = measure(self.device)
            figures = {"hbm_bytes_s": hbm, "host_bytes_s": host}
            figures["source"] = Source.MEASURED
        machine = TensorMachine(self.mover, "benchmark", **figures)
        self.tiering = Tiering(self.mover, machine)
        rows = max(EPOCH_ROWS, int(EPOCH_SHARE * geometry.pages))
        self._engine = Engine(self.mover, self.tiering, rows)
        self._every = every
        self._seen = (0, 0)
        if every == 0:
            self._engine.start()

    def launch(self, call: Any, *, writes: bool = False) -> Pending[None]:
        """Make a launch of the tier's backend."""
        pending = self.mover.launch(call, writes=writes)
        if self._every:
            self.mover.pump()
        return pending

    def read(self, index: Any, out: Any) -> None:
        """Read rows."""
        self.launch(lambda launch: self.device.gather(index, out, launch))
        self._engine.launched(len(index), self.device.geometry.row_bytes)

    def between(self, batch: int) -> None:
        """End an epoch when its batches are read."""
        if self._every and (batch + 1) % self._every == 0:
            self._engine.step()

    def counted(self) -> tuple[int, int]:
        """Return the tier's own totals, as of the last epoch that ended."""
        if self._every:
            self._engine.step()
        if self._engine.error is not None:
            raise self._engine.error
        counters = self.tiering.counters
        now = (counters.hits, counters.misses)
        old, self._seen = self._seen, now
        return now[0] - old[0], now[1] - old[1]

    def facts(self) -> dict[str, Any]:
        """Return pages moved, by way, and memory."""
        totals = self.mover.protocol.totals
        g = self.device.geometry
        facts = {
            "deposited": totals.deposited,
            "copied": totals.copied,
            "left": totals.left,
            "aborted": totals.aborted,
            "moved_over_slots": (totals.deposited + totals.copied) / max(1, g.slots),
            "epochs": self.tiering.epochs,
        }
        state = getattr(self.device, "state", None)
        return facts if state is None else facts | {"meta_bytes": state.meta_bytes}

    def close(self) -> None:
        """Stop the thread, free memory."""
        self._engine.stop()
        self.mover.settle()
        self.device.close()


class SetCache:
    """A 32-way cache in front of the table, filled on every miss, as FBGEMM's is.

    In torch around our gather: unique rows of the batch, look-up by set, victims by
    age or by count, copy, then read. A stand-in for FBGEMM's where that cannot be
    had; it shows the policies beside ours on the same kernels.

    LRU evicts the oldest; LFU counts every row for ever, evicts the rarest, and lets
    a row in only if it was read more often than the one that it replaces
    (fbgemm_gpu/src/split_embeddings_cache: lru_cache_populate, lfu_cache_populate).
    """

    WAYS = 32

    def __init__(self, rig: Rig, table: Table, geometry: Geometry, policy: str) -> None:
        self.name = f"{policy}-32, in-house"
        self._policy, self._torch = policy, rig.torch
        sets = max(1, geometry.slots // self.WAYS)
        geometry = Geometry(
            geometry.rows,
            geometry.row_dim,
            geometry.dtype,
            geometry.rows_per_page,
            sets * self.WAYS,
        )
        self.device: Any = rig.make(table, geometry, count=False)
        torch, where = rig.torch, rig.device.torch
        self._sets = sets
        shape = (sets, self.WAYS)
        self._tags = torch.full(shape, -1, dtype=torch.int64, device=where)
        self._rank = torch.zeros(shape, dtype=torch.int64, device=where)
        self._often = torch.zeros(
            geometry.pages if policy == "lfu" else 0, dtype=torch.int64, device=where
        )
        self._time = 0
        self._hits = torch.zeros((), dtype=torch.int64, device=where)
        self._rows = self._moved = 0

    def read(self, index: Any, out: Any) -> None:
        """Let missing rows in, then read."""
        torch, g = self._torch, self.device.geometry
        self._time += 1
        page = index.long() // g.rows_per_page
        self._hits += (self.device.state.loc[page] >= 0).sum()
        self._rows += len(index)
        unique, times = torch.unique(page, return_counts=True)
        if self._policy == "lfu":
            self._often.index_add_(0, unique, times)
        at = ((unique * 0x9E3779B1) & 0xFFFFFFFF) % self._sets
        same = self._tags[at] == unique[:, None]
        found = same.any(1)
        way = same[found].int().argmax(1)
        stamp = self._time if self._policy == "lru" else self._often[unique[found]]
        self._rank[at[found], way] = stamp
        self._insert(unique[~found], at[~found])
        self.device.gather(index, out, Launch(self._time, deposit=False))

    def _insert(self, page: Any, at: Any) -> None:
        """Give missing pages the ways of their sets that come first."""
        torch = self._torch
        if not len(page):
            return
        worth = self._often[page] if self._policy == "lfu" else torch.zeros_like(page)
        order = torch.argsort(worth, descending=True, stable=True)
        order = order[torch.argsort(at[order], stable=True)]
        page, at, worth = page[order], at[order], worth[order]
        first = torch.searchsorted(at, at)
        nth = torch.arange(len(at), device=at.device) - first
        fits = nth < self.WAYS
        page, at, worth, nth = page[fits], at[fits], worth[fits], nth[fits]
        victims = torch.argsort(self._rank[at], dim=1)
        way = victims.gather(1, nth[:, None])[:, 0]
        if self._policy == "lfu":
            better = worth > self._rank[at, way]
            page, at, way, worth = page[better], at[better], way[better], worth[better]
        state, steps = self.device.state, self.device._steps  # noqa: SLF001  # one lane
        old = self._tags[at, way]
        state.loc[old[old >= 0]] = -1
        slot = (at * self.WAYS + way).int()
        if len(page):
            steps.copy(state, page.int(), slot, out=False)
        state.loc[page] = slot
        self._tags[at, way] = page
        self._rank[at, way] = self._time if self._policy == "lru" else worth
        self._moved += len(page)

    def between(self, batch: int) -> None:
        """Do nothing: all is done on the way."""

    def counted(self) -> tuple[int, int]:
        """Return rows that were there before the batch, and the rest."""
        hits, rows = int(self._hits), self._rows
        self._hits.zero_()
        self._rows = 0
        return hits, rows - hits

    def facts(self) -> dict[str, Any]:
        """Return bytes moved and memory for tags."""
        slots = self.device.geometry.slots
        own = (self._tags, self._rank, self._often)
        meta = sum(t.numel() * t.element_size() for t in own)
        return {
            "moved_over_slots": self._moved / max(1, slots),
            "meta_bytes": meta + self.device.state.meta_bytes,
        }

    def close(self) -> None:
        """Free memory."""
        self.device.close()


class CpuGather:
    """Rows gathered by the CPU into page-locked memory, then copied."""

    def __init__(
        self, rig: Rig, table: Table, geometry: Geometry, batch: int, *, ahead: bool
    ) -> None:
        self.name = "CPU gather and copy" + (", double-buffered" if ahead else "")
        self._rig, self._ahead = rig, ahead
        words = rig.torch.from_numpy(table.arena(geometry).view(np.int32))
        self._rows = words.view(-1, words.shape[1] // geometry.rows_per_page)
        self._rows = self._rows[:, : geometry.row_dim]
        shape = (batch, geometry.row_dim)
        self._stages = [rig.device.stage(shape, np.dtype(np.int32)) for _ in range(2)]
        self._done: list[Any] = [None, None]
        self._turn = 0
        self._read = 0

    def read(self, index: Any, out: Any) -> None:
        """Gather, then copy; double-buffered the copy runs beside the next gather."""
        torch = self._rig.torch
        turn = self._turn = 1 - self._turn if self._ahead else 0
        if self._done[turn] is not None:
            self._done[turn].synchronize()
        shape = (len(index), self._rows.shape[1])
        held = torch.from_numpy(self._stages[turn].hold(shape, np.dtype(np.int32)))
        torch.index_select(self._rows, 0, index.cpu().long(), out=held)
        out.copy_(held, non_blocking=True)
        if self._rig.cuda:
            self._done[turn] = torch.cuda.current_stream().record_event()
            if not self._ahead:
                self._done[turn].synchronize()
        self._read += len(index)

    def between(self, batch: int) -> None:
        """Do nothing."""

    def counted(self) -> tuple[int, int]:
        """Return that nothing is in HBM."""
        read, self._read = self._read, 0
        return 0, read

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Give the buffers back."""
        self._rig.device.give(self._stages)


class UvaSelect:
    """``torch.index_select`` on a view of the host table that the device can read."""

    name = "zero-copy, index_select"

    def __init__(self, rig: Rig, table: Table, geometry: Geometry) -> None:
        arena = table.arena(geometry)
        seen = (
            rig.device.view(arena)
            if rig.cuda and rig.refused is None
            else rig.torch.from_numpy(arena)
        )
        words = seen.view(rig.torch.int32)
        self._torch = rig.torch
        self._rows = words.view(-1, words.shape[1] // geometry.rows_per_page)
        self._rows = self._rows[:, : geometry.row_dim]
        self._read = 0

    def read(self, index: Any, out: Any) -> None:
        """Select."""
        self._torch.index_select(self._rows, 0, index, out=out)
        self._read += len(index)

    def between(self, batch: int) -> None:
        """Do nothing."""

    def counted(self) -> tuple[int, int]:
        """Return that nothing is in HBM."""
        read, self._read = self._read, 0
        return 0, read

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class Fbgemm:
    """FBGEMM's inference tables with a cache in HBM over memory that the host maps.

    ``uvm_host_mapped=True``: cudaHostAlloc, so that nothing is managed memory. Rows are
    float16 of equal bytes, filled at random: results are not compared.

    Raises:
        ImportError: It is not there, or does not fit this torch.
    """

    def __init__(
        self, rig: Rig, geometry: Geometry, policy: str, *, ahead: bool
    ) -> None:
        # ruff: noqa: PLC0415  # optional, and only here
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
            BoundsCheckMode,
            CacheAlgorithm,
            EmbeddingLocation,
            PoolingMode,
        )
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
            IntNBitTableBatchedEmbeddingBagsCodegen,
        )

        self.name = f"FBGEMM {policy}" + (", prefetched" if ahead else "")
        self._torch, self._ahead = rig.torch, ahead
        spec = (
            "table",
            geometry.rows,
            geometry.row_bytes // 2,
            SparseType.FP16,
            EmbeddingLocation.MANAGED_CACHING,
        )
        self._table = IntNBitTableBatchedEmbeddingBagsCodegen(
            embedding_specs=[spec],
            pooling_mode=PoolingMode.NONE,
            bounds_check_mode=BoundsCheckMode.NONE,
            cache_algorithm=getattr(CacheAlgorithm, policy.upper()),
            cache_assoc=32,
            cache_sets=max(1, geometry.slots // 32),
            device=rig.device.torch,
            output_dtype=SparseType.FP16,
            gather_uvm_cache_stats=True,
            uvm_host_mapped=True,
        )
        self._table.fill_random_weights()
        self._side = rig.torch.cuda.Stream()
        self._offsets: Any = None
        self._old = (0, 0)

    def read(self, index: Any, out: Any) -> None:
        """Let missing rows in, on a side stream where prefetched, then read."""
        torch = self._torch
        index = index.long()
        if self._offsets is None or len(self._offsets) != len(index) + 1:
            self._offsets = torch.arange(len(index) + 1, device=index.device)
        if self._ahead:
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                self._table.prefetch(index, self._offsets)
            current.wait_stream(self._side)
        self._table(index, self._offsets)

    def between(self, batch: int) -> None:
        """Do nothing."""

    def counted(self) -> tuple[int, int]:
        """Return its own statistics: requested, and unique misses."""
        stats = self._table.get_uvm_cache_stats().tolist()
        now = (int(stats[1]), int(stats[3]))  # requested indices, unique misses
        old, self._old = self._old, now
        misses = now[1] - old[1]
        return now[0] - old[0] - misses, misses

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {"hit_rate_is": "of requests less unique misses"}

    def close(self) -> None:
        """Free memory."""
        del self._table
        self._torch.cuda.empty_cache()

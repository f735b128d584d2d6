"""The simulated machine: nodes, pages, time, and what looking and moving cost."""

import heapq
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.machine.protocol import MoveResult, Space, SpacesChanged, Usage
from isotherm.machine.sim import births, play
from isotherm.machine.sim.bill import Bill, EpochCosts
from isotherm.machine.sim.demand_fill import DemandFillLru
from isotherm.machine.sim.expander import Expander
from isotherm.machine.sim.huge import HugeMemory
from isotherm.machine.sim.load import Load
from isotherm.machine.sim.spec import MachineSpec
from isotherm.machine.sim.trouble import Faults
from isotherm.topology.model import Topology
from isotherm.trace.stream import AccessChunk, AccessStream, Background

EBUSY, ENOMEM, ENOENT, EFAULT, ENODEV = 16, 12, 2, 14, 19
#: Of ``move_page_ns``: what a page costs that is busy, pinned or finds no room.
#: The kernel has isolated it, asked for the other page or unmapped this one, and
#: puts it back (migrate_folio_unmap() and its undo, mm/migrate.c); assumed half.
FAILED_SHARE = 0.5


#: Told of hint faults: page uint32[n], time in ns float64[n], write and
#: initiator uint8[n].
FaultHandler = Callable[
    [NDArray[np.uint32], NDArray[np.float64], NDArray[np.uint8], NDArray[np.uint8]],
    None,
]


class SimMachine:
    """A machine made of a spec, a footprint and a seed.

    Args:
        spec: Nodes, latencies, costs.
        pages: Footprint.
        fast_ratio: Fast capacity over footprint, > 0.
        seed: For placement and injected faults.
        owner: Name of the space.
        faults: Injected trouble.
        streams: The workload's, where it consists of several.
        background: Traffic of others on the nodes, beyond the spec's own.
    """

    def __init__(
        self,
        spec: MachineSpec,
        pages: int,
        fast_ratio: float,
        seed: int = 1,
        owner: str = "workload",
        faults: Faults | None = None,
        streams: tuple[AccessStream, ...] = (),
        background: tuple[Background, ...] = (),
    ) -> None:
        self.spec = spec
        self.pages = pages
        self._clock = VirtualClock()
        self._rng = np.random.default_rng([seed, 0x3A])
        self._faults = faults or Faults()
        self._nodes = len(spec.nodes)
        self.capacity = np.array(spec.capacities(pages, fast_ratio), np.int64)
        self._topology = spec.topology(self.capacity.tolist())
        self._spaces = (Space(0, pages, owner),)
        # Padded so that blocks of eight pages are whole.
        self.flags = np.zeros(-(-pages // 8) * 8, np.uint8)
        self._node = np.zeros(pages, np.uint8)
        self._node_fresh = False
        self.used = np.zeros(self._nodes, np.int64)
        self.load = Load(spec, pages, streams, background)
        self.tier_rank = self.load.tier_rank
        last = int(self.tier_rank.max())
        self._spill = int(np.flatnonzero(self.tier_rank == last)[0])
        self.read_ns, self.write_ns = self.load.read_ns, self.load.write_ns
        self._loaded = self.read_ns.copy()
        self._factor = np.ones(self._nodes)  # of the last epoch's load
        # Where a write costs what a read costs and there is one initiator, an
        # access needs no telling apart. (The lanes of play_plain hold four nodes.)
        self._plain = (
            self._nodes <= 4
            and len(spec.initiators) == 1
            and not self.load.streams
            and np.array_equal(self.read_ns, self.write_ns)
            and bool(np.isinf(self.load.write_gb_s).all())
        )
        self._migrated_bytes = np.zeros((2, self._nodes), np.float64)  # [read, written]
        self._actions: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = 0
        self._rate: float | None = None
        self.bill = Bill()
        #: Whether `refresh` tells which pages were born.
        self.tells_births = True
        self._born: list[NDArray[np.uint32]] = []
        self.observers: list[Callable[[AccessChunk], None]] = []
        self.bits_wanted = 0  # flags that an access sets
        self.on_faults: FaultHandler | None = None
        self.nr_poisoned = 0
        self.demand_fill: DemandFillLru | None = None
        self.huge_memory: HugeMemory | None = None
        self.expander: Expander | None = None
        self._place = play.place
        if spec.expander is not None:
            self.expander = Expander(
                spec.expander, pages, self.load.scale, seed, self._nodes
            )
            self._place = self.expander.move
        if self._faults.pinned or self._faults.vanished:
            draw = self._rng.random(pages)
            self._gone: NDArray[np.bool_] | None = draw < self._faults.vanished
            pinned = draw >= 1 - self._faults.pinned
            self.flags[:pages][pinned] |= np.uint8(play.UNMOVABLE)
        else:
            self._gone = None

    # ---- the Machine protocol

    @property
    def clock(self) -> VirtualClock:
        """The virtual clock."""
        return self._clock

    @property
    def topology(self) -> Topology:
        """The spec as a topology."""
        return self._topology

    @property
    def spaces(self) -> tuple[Space, ...]:
        """One space: the workload."""
        return self._spaces

    def refresh(self) -> SpacesChanged | None:
        """Return which pages are new memory; the workload's space stays as it is."""
        born, self._born = self._born, []
        if not born or not self.tells_births:
            return None
        return SpacesChanged(self.pages, births.ranges(born))

    def usage(self) -> Usage:
        """Return capacity, use and the kernel's default watermarks.

        Watermarks: min = 0.1 % of the node here (min_free_kbytes grows with the
        square root of memory), low, high and promo each 0.1 % above the one
        before (watermark_scale_factor 10, mm/page_alloc.c).
        """
        step = np.maximum(1, self.capacity // 1000)
        used = self.used.copy()
        if self.demand_fill is not None:
            used = np.bincount(self.placement(), minlength=self._nodes)
        if self.expander is None:
            return Usage(self.capacity, used, step, 2 * step, 3 * step, 4 * step)
        node, capacity = self.expander.spec.compressed, self.capacity.copy()
        fits = self.expander.capacity_pages(int(used[node]))
        capacity[node] = min(int(capacity[node]), fits)
        fill = self.expander.fills()
        return Usage(capacity, used, step, 2 * step, 3 * step, 4 * step, fill=fill)

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every page."""
        if self.demand_fill is not None:
            fast = int(np.flatnonzero(self.tier_rank == 0)[0])
            resident = self.demand_fill.resident
            self._node = np.where(resident, fast, self._spill).astype(np.uint8)
        elif not self._node_fresh:
            play.nodes_of(self.flags, self._node)
            self._node_fresh = True
        return self._node

    def latency_ns(self) -> NDArray[np.float64]:
        """Return the loaded read latency of the last epoch."""
        return self._loaded

    def access_rate(self) -> float | None:
        """Return accesses per page per second of the last epoch."""
        return self._rate

    @property
    def parallelism(self) -> float:
        """The spec's; where streams or initiators differ, the last epoch's mean."""
        return self.load.met_parallelism

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages in order; see the protocol.

        errno as of move_pages(2): EFAULT for a page that no space holds, ENODEV
        for a node that the machine lacks, ENOMEM for one without room, EBUSY and
        ENOENT as injected. A page that answers EBUSY or ENOMEM costs half of
        ``move_page_ns``.
        """
        errno = np.zeros(len(page), np.int16)
        if self._faults.busy or self._faults.no_memory:
            draw = self._rng.random(len(page))
            errno[draw < self._faults.busy] = EBUSY
            errno[draw >= 1 - self._faults.no_memory] = ENOMEM
        if self._gone is not None:
            errno[self._gone[np.minimum(page, self.pages - 1)]] = ENOENT
        errno[node >= self._nodes] = ENODEV
        errno[page >= self.pages] = EFAULT
        moved = np.zeros((self._nodes, self._nodes), np.int64)
        self._place(self.flags, page, node, self.used, self.capacity, moved, errno)
        self._node_fresh = False
        count = int(moved.sum())
        costs = self.spec.costs
        cost_ns = count * (costs.move_page_ns + costs.move_byte_ns * PAGE_BYTES)
        if self.expander is not None:
            cost_ns += self.expander.move_ns(moved)
        failed = int(((errno == EBUSY) | (errno == ENOMEM)).sum())
        cost_ns += failed * FAILED_SHARE * costs.move_page_ns
        if len(page):
            cost_ns += costs.move_fixed_ns
        self._migrated_bytes[0] += moved.sum(1) * PAGE_BYTES
        self._migrated_bytes[1] += moved.sum(0) * PAGE_BYTES
        self.bill.migration_ns += cost_ns
        return MoveResult(errno, cost_ns)

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the cost of a page in a large batch, float64[nodes, nodes]."""
        costs = self.spec.costs
        one = costs.move_page_ns + costs.move_byte_ns * PAGE_BYTES
        return np.full((self._nodes, self._nodes), one) * (1 - np.eye(self._nodes))

    # ---- the simulator's side

    def pinned(self) -> NDArray[np.bool_] | None:
        """Return the pages that never move, bool[pages]; None: there are none."""
        if not self._faults.pinned:
            return None
        held: NDArray[np.bool_] = (self.flags[: self.pages] & play.UNMOVABLE) > 0
        return held

    def fill_on_demand(self) -> DemandFillLru:
        """Run the fastest tier as an LRU cache of the slowest one, from now on.

        Raises:
            UnsupportedError: The fastest tier has several nodes: which of them a
                miss would fill is nobody's to say. Or the slowest compresses: a
                miss has no way to wait for room on it.
        """
        fast = self.tier_rank == 0
        if self.expander is not None:
            raise UnsupportedError(
                f"machine {self.spec.name}: its slowest tier may refuse a page,"
                " and a tier filled on demand must put one out at every miss",
                hint="leave lru out, or take a machine without an expander",
            )
        if fast.sum() > 1:
            raise UnsupportedError(
                f"machine {self.spec.name}: its fastest tier has {fast.sum()} nodes,"
                " and a tier filled on demand has one",
                hint="leave lru out, or take a machine with one fast node",
            )
        self.demand_fill = DemandFillLru(self.pages, int(self.capacity[fast].sum()))
        return self.demand_fill

    def place(self, node: NDArray[np.uint8]) -> None:
        """Put every page on its node, free of cost and regardless of capacity."""
        self.flags[: self.pages] &= np.uint8(0xFF ^ play.NODE_MASK)
        self.flags[: self.pages] |= node
        self.used[:] = np.bincount(node, minlength=self._nodes)
        self.moved_by_hand()
        if self.expander is not None:
            self.expander.place(node)

    def moved_by_hand(self) -> None:
        """Note that the flags say other nodes than they did."""
        self._node_fresh = False

    def at(self, offset_ns: int, action: Callable[[int], None]) -> None:
        """Call ``action(now_ns)`` at an offset into the next epoch."""
        heapq.heappush(self._actions, (offset_ns, self._order, action))
        self._order += 1

    def advance(self, chunk: AccessChunk, dt_ns: int) -> EpochCosts:
        """Let one epoch pass: play its accesses, with actions at their time."""
        start_ns = self._clock.now_ns()
        if self.load.has_threads and chunk.stream is not None:
            who = self.load.initiator.astype(np.uint8)[chunk.stream]
            chunk = replace(chunk, initiator=who)
        if self.expander is not None:
            self.expander.pass_time(start_ns)
        if chunk.born is not None and len(chunk.born):
            self._born.append(chunk.born.copy())
            births.bear(self, chunk.born)
        counts = np.zeros((self.load.rows, 2, play.MAX_NODES), np.int64)
        n = len(chunk)
        done = 0
        now_ns = start_ns
        while self._actions and self._actions[0][0] <= dt_ns:
            offset_ns, _, action = heapq.heappop(self._actions)
            upto = self._position(chunk, offset_ns, dt_ns, start_ns)
            self._play(chunk, done, upto, counts, start_ns, dt_ns)
            done = max(done, upto)
            self._clock.advance(max(0, start_ns + offset_ns - now_ns))
            now_ns = self._clock.now_ns()
            action(now_ns)
        self._play(chunk, done, n, counts, start_ns, dt_ns)
        for observe in self.observers:
            observe(chunk)
        self._clock.advance(start_ns + dt_ns - now_ns)
        return self._account(counts, n, dt_ns)

    def miss_ns(
        self,
        page: NDArray[np.uint32],
        write: NDArray[np.uint8],
        initiator: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Return what misses of the last epoch took, float64[n].

        Args:
            page: Flat pages, where they are now.
            write: 1 for a write.
            initiator: Who made them; one that is not there is initiator 0.
        """
        node = self.flags[page] & play.NODE_MASK
        who = np.where(initiator < len(self.read_ns), initiator, 0).astype(np.int64)
        unloaded = np.where(
            write > 0, self.write_ns[who, node], self.read_ns[who, node]
        )
        took: NDArray[np.float64] = unloaded * self._factor[node]
        return took

    @property
    def mean_latency_ns(self) -> float:
        """Mean latency of the accesses so far."""
        if not self.load.alike:
            return self.load.mean_latency_ns
        return self.bill.access_ns * self.spec.parallelism / self.bill.accesses

    def charge(self, application_ns: float, background_ns: float) -> None:
        """Charge the cost of looking."""
        self.bill.application_ns += application_ns
        self.bill.background_ns += background_ns

    def _position(
        self, chunk: AccessChunk, offset_ns: int, dt_ns: int, start_ns: int
    ) -> int:
        if chunk.time_ns is not None:
            return int(np.searchsorted(chunk.time_ns, start_ns + offset_ns))
        return len(chunk) * offset_ns // dt_ns

    def _play(
        self,
        chunk: AccessChunk,
        start: int,
        stop: int,
        counts: NDArray[np.int64],
        epoch_ns: int,
        dt_ns: int,
    ) -> None:
        if stop <= start:
            return
        page = chunk.page[start:stop]
        if self.demand_fill is not None:
            self._play_demand_fill(chunk, start, stop, counts)
            return
        if self.nr_poisoned:
            fault_page = np.empty(min(self.nr_poisoned, len(page)), np.uint32)
            fault_at = np.empty(len(fault_page), np.int64)
            k = play.take_faults(self.flags, page, fault_page, fault_at)
            self.nr_poisoned -= k
            if self.on_faults is not None and k:
                at = start + fault_at[:k]
                if chunk.time_ns is not None:
                    when = chunk.time_ns[at].astype(np.float64)
                else:
                    when = epoch_ns + (at + 0.5) / len(chunk) * dt_ns
                zero = np.zeros(k, np.uint8)
                self.on_faults(
                    fault_page[:k],
                    when,
                    zero if chunk.write is None else chunk.write[at],
                    zero if chunk.initiator is None else chunk.initiator[at],
                )
        if self.expander is not None:
            write = None if chunk.write is None else chunk.write[start:stop]
            self.expander.access(self.flags, page, write)
        row = self._row(chunk)
        untold = chunk.write is None and row is None
        if self._plain or (untold and self._nodes <= 4):
            play.play_plain(self.flags, page, self.bits_wanted, counts[0, 0])
            return
        none = np.empty(0, np.uint8)
        play.play_full(
            self.flags,
            page,
            none if chunk.write is None else chunk.write[start:stop],
            none if row is None else row[start:stop],
            self.bits_wanted,
            counts,
        )

    def _row(self, chunk: AccessChunk) -> NDArray[np.uint8] | None:
        """Return the column that accesses are counted by, beside write and node."""
        return chunk.stream if self.load.streams else chunk.initiator

    def _play_demand_fill(
        self, chunk: AccessChunk, start: int, stop: int, counts: NDArray[np.int64]
    ) -> None:
        cache = self.demand_fill
        if cache is None:
            return
        page = chunk.page[start:stop]
        fast = int(np.flatnonzero(self.tier_rank == 0)[0])
        told = self._row(chunk)
        if self._plain or (chunk.write is None and told is None):
            hits, promoted, evicted = cache.access(page)
            counts[0, 0, fast] += hits
            counts[0, 0, self._spill] += len(page) - hits
        else:
            hit = np.empty(len(page), np.uint8)
            _, promoted, evicted = cache.access(page, hit)
            row = np.where(hit, fast, self._spill)
            if chunk.write is not None:
                row += (chunk.write[start:stop] > 0) * play.MAX_NODES
            if told is not None:
                who = told[start:stop]
                who = np.where(who < len(counts), who, 0).astype(np.int64)
                row += who * (2 * play.MAX_NODES)
            found = np.bincount(row, minlength=counts.size)
            counts += found.reshape(counts.shape)
        costs = self.spec.costs
        one = costs.move_page_ns + costs.move_byte_ns * PAGE_BYTES
        # A miss is a call of its own; the page that it puts out goes with it.
        self.bill.migration_ns += (promoted + evicted) * one
        self.bill.migration_ns += promoted * costs.move_fixed_ns
        cache.promoted += promoted
        cache.evicted += evicted
        self._migrated_bytes[0, self._spill] += promoted * PAGE_BYTES
        self._migrated_bytes[1, fast] += promoted * PAGE_BYTES
        self._migrated_bytes[0, fast] += evicted * PAGE_BYTES
        self._migrated_bytes[1, self._spill] += evicted * PAGE_BYTES

    def _extra_ns(self, dt_ns: int) -> float:
        """Return latency of an epoch's accesses beyond their nodes', all together."""
        return 0.0 if self.expander is None else self.expander.epoch_ns(dt_ns)

    def _account(
        self, counts: NDArray[np.int64], accesses: int, dt_ns: int
    ) -> EpochCosts:
        moved = self._migrated_bytes
        now_ns = self._clock.now_ns()
        others = self.load.background_bytes(now_ns - dt_ns, dt_ns)
        extra_ns = self._extra_ns(dt_ns)
        settled = self.load.settle(
            counts, moved, others, dt_ns, self.expander, extra_ns
        )
        self._factor = settled.factor
        self._loaded = self.read_ns * settled.factor
        per_node = settled.accesses[:, :, : self._nodes]
        if self.expander is not None:
            node = self.expander.spec.compressed
            if served := int(per_node[:, :, node].sum()):
                self._loaded[:, node] += extra_ns / served
        self._migrated_bytes = np.zeros_like(moved)
        self._rate = accesses * NS_PER_S / (dt_ns * self.pages)
        costs = EpochCosts(settled.accesses, settled.access_ns, settled.all_fast_ns)
        self.bill.access_ns += costs.access_ns
        self.bill.all_fast_ns += costs.all_fast_ns
        self.bill.accesses += accesses
        self.bill.fast_accesses += int(per_node[:, :, self.tier_rank == 0].sum())
        near = self.read_ns.argmin(0)  # of every node, the first of those that are
        far = self.read_ns > self.read_ns[near, np.arange(self._nodes)]
        self.bill.remote_accesses += int(per_node.sum(1)[far].sum())
        return costs

"""A simulated machine whose memory may be mapped by huge pages."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError
from isotherm.core.units import PAGE_BYTES, PAGES_PER_HUGE_PAGE
from isotherm.machine.protocol import HugePages, MoveResult, ResizeResult
from isotherm.machine.sim.bill import EpochCosts
from isotherm.machine.sim.demand_fill import DemandFillLru
from isotherm.machine.sim.huge import HugeMemory
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.spec import MachineSpec
from isotherm.machine.sim.trouble import Faults
from isotherm.trace.stream import AccessChunk, AccessStream, Background

Ints = NDArray[np.int64]


class HugeSimMachine(SimMachine):
    """A `SimMachine` with a TLB, huge pages, and changes of page size.

    Translations are looked up in the order of the accesses; a walk adds to the
    latency of its access. Hint faults, region sampling and device counters see small
    pages, as if none were huge.

    Args:
        spec: Nodes, latencies, costs; what huge pages save and cost.
        pages: Footprint.
        fast_ratio: Fast capacity over footprint, > 0.
        seed: For placement and injected faults.
        owner: Name of the space.
        faults: Injected trouble.
        streams: The workload's, where it consists of several.
        background: Traffic of others on the nodes, beyond the spec's own.

    Raises:
        UnsupportedError: The machine compresses.
    """

    huge_memory: HugeMemory

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
        if spec.expander is not None:
            raise UnsupportedError(
                f"machine {spec.name}: its expander compresses small pages, and huge"
                " ones are not modelled on it",
                hint="leave huge pages out, or take a machine without an expander",
            )
        super().__init__(
            spec, pages, fast_ratio, seed, owner, faults, streams, background
        )
        costs = spec.costs
        page_ns = costs.move_page_ns + costs.move_byte_ns * PAGE_BYTES
        self.huge_memory = HugeMemory(
            spec.huge_pages,
            self.flags,
            pages,
            self.used,
            self.capacity,
            page_ns,
            self.load.scale,
        )
        self._place = self._place_any
        self._whole: Ints = np.zeros((self._nodes, self._nodes), np.int64)
        self._seed = seed

    # ---- the protocol

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages in order; any page of a huge one takes all of it along."""
        self._whole[:] = 0
        result = super().move(page, node)
        count = int(self._whole.sum())
        cost_ns = count * self.huge_memory.move_ns
        self._copied(self._whole * PAGES_PER_HUGE_PAGE)
        self.bill.migration_ns += cost_ns
        return MoveResult(result.errno, result.cost_ns + cost_ns, count)

    def huge_pages(self) -> HugePages:
        """Return which ranges are huge, and the costs."""
        return self.huge_memory.told()

    def resize(self, page: NDArray[np.uint32], huge: NDArray[np.bool_]) -> ResizeResult:
        """Collapse or split ranges, in order; see the protocol.

        errno: EINVAL for what is no whole range, EBUSY where a page of it is
        pinned, ENOMEM where the node that has most of it has no room for the rest.
        """
        result, copied = self.huge_memory.resize(page, huge)
        self._copied(copied)
        self._node_fresh = False
        self.bill.migration_ns += float(result.cost_ns.sum())
        return result

    # ---- the simulator's side

    def begin_huge(self, share: float) -> None:
        """Make a share of the ranges huge that lie whole on one node, at no cost."""
        self.huge_memory.begin(share, self._seed)

    def fill_on_demand(self) -> DemandFillLru:
        """Refuse: a tier filled on demand moves small pages.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            f"machine {self.spec.name}: a tier filled on demand has no huge pages",
            hint="leave huge pages out, or take another policy than lru",
        )

    def _place_any(
        self,
        flags: NDArray[np.uint8],
        page: NDArray[np.uint32],
        node: NDArray[np.uint8],
        used: Ints,
        capacity: Ints,
        moved: Ints,
        errno: NDArray[np.int16],
    ) -> None:
        self._whole += self.huge_memory.place(page, node, moved, errno)

    def _copied(self, pages: Ints) -> None:
        """Charge the nodes for pages copied, int64[nodes, nodes] [from, to]."""
        self._migrated_bytes[0] += pages.sum(1) * PAGE_BYTES
        self._migrated_bytes[1] += pages.sum(0) * PAGE_BYTES

    def _play(
        self,
        chunk: AccessChunk,
        start: int,
        stop: int,
        counts: Ints,
        epoch_ns: int,
        dt_ns: int,
    ) -> None:
        if stop > start:
            self.huge_memory.look_up(chunk.page[start:stop])
        super()._play(chunk, start, stop, counts, epoch_ns, dt_ns)

    def _extra_ns(self, dt_ns: int) -> float:
        return super()._extra_ns(dt_ns) + self.huge_memory.epoch_ns()

    def _account(self, counts: Ints, accesses: int, dt_ns: int) -> EpochCosts:
        took_ns = self.huge_memory.let_kernel(dt_ns)
        if took_ns > 0:
            self._node_fresh = False
            self.bill.migration_ns += took_ns
        return super()._account(counts, accesses, dt_ns)

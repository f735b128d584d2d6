"""A tensor as a machine: two nodes, HBM and host, and the GPU that reads them.

The loop, the tracker, the policy and the migration engine are those of ordinary
memory. What differs is said in ADR 27:

* The clock counts work, not seconds: an epoch is so many rows read, and lasts
  ``EPOCH_NS`` by definition. A job that pauses forgets nothing.
* A page is on HBM as soon as a slot is promised to it: a move is accepted, and
  carried out by the next launch that reads the page, for the price of a store.
* The host arena holds every page: a clean page leaves HBM for nothing.
"""

import errno
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock, VirtualClock
from isotherm.core.units import NS_PER_S
from isotherm.gpu.backend import Backend, Launch
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import HBM, HOST
from isotherm.machine.protocol import MoveResult, Space, SpacesChanged, Usage
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)

#: An epoch of the loop on the tensor's clock: the one that the tracker's and the
#: policy's half-lives are stated for.
EPOCH_NS = NS_PER_S // 2

MIB = 1 << 20

#: Bytes per second that a GPU reads, where nobody has measured: HBM3 of an H100 as
#: gather kernels reach it (FBGEMM, 2.65 TB/s), host memory by its own loads over
#: PCIe 5 x16 (35 GB/s).
ASSUMED_HBM_BYTES_S = 2.65e12
ASSUMED_HOST_BYTES_S = 35e9

#: Rows that a measurement reads, at most.
MEASURED_ROWS = 1 << 16


def measure(
    backend: Backend,
    now_ns: Callable[[], int] = time.monotonic_ns,
    repeats: int = 5,
) -> tuple[float, float]:
    """Return bytes per second that launches read from slots and from the host.

    Of a backend that nobody uses yet: its first slots are filled for it, and given
    back. Best of ``repeats``; the first launch of each compiles what is to compile.
    """
    g = backend.geometry
    rows = min(MEASURED_ROWS, g.rows)
    pages = max(1, min(g.slots, g.pages))
    each = np.arange(rows, dtype=np.int64)
    far = backend.array(each * (g.rows // rows))
    near = backend.array(each % min(g.rows, pages * g.rows_per_page))
    out = backend.empty((rows, g.row_dim))

    def best(index: object) -> float:
        took = []
        for _ in range(1 + repeats):
            began = now_ns()
            backend.gather(index, out, Launch(1, deposit=False)).result()
            took.append(now_ns() - began)
        return rows * g.row_bytes / max(1, min(took[1:])) * NS_PER_S

    host = best(far)
    if g.slots == 0:
        return host, host
    page = np.arange(pages, dtype=np.uint32)
    backend.commit(page, page, backend.copy_in(page, page).result()).result()
    hbm = best(near)
    backend.unpublish(page, page).result()
    backend.synchronise()
    backend.drain().result()
    return hbm, host


class TensorMachine:
    """See the module, and ``machine.protocol.Machine``.

    Args:
        mover: The protocol on its backend.
        name: For people.
        hbm_bytes_s: What the GPU reads from its slots.
        host_bytes_s: What it reads in the host arena.
        source: Who said so.
        page_bytes: What a page takes of the link; None: as the geometry has it.
    """

    def __init__(
        self,
        mover: Mover,
        name: str,
        hbm_bytes_s: float = ASSUMED_HBM_BYTES_S,
        host_bytes_s: float = ASSUMED_HOST_BYTES_S,
        source: Source = Source.ASSUMED,
        *,
        page_bytes: int | None = None,
    ) -> None:
        self._mover = mover
        g = mover.backend.geometry
        self._clock = VirtualClock()
        self.pages = g.pages
        self.parallelism = 1.0  # bandwidth, not latency: what is in flight is in it
        self._spaces = (Space(0, g.pages, name),)
        self._bytes_s = np.array([hbm_bytes_s, host_bytes_s])
        self._row_ns = g.row_bytes / self._bytes_s * NS_PER_S
        page_bytes = g.page_bytes if page_bytes is None else page_bytes
        self._page_ns = page_bytes / self._bytes_s * NS_PER_S
        self._rate: float | None = None
        self._topology = _topology(mover, name, self._bytes_s, self._row_ns, source)

    @property
    def host_bytes_s(self) -> float:
        """What the GPU reads in the host arena, bytes per second."""
        return float(self._bytes_s[HOST])

    @property
    def clock(self) -> Clock:
        """The work done, as time."""
        return self._clock

    @property
    def topology(self) -> Topology:
        """Two nodes, two tiers, one initiator."""
        return self._topology

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The tensor."""
        return self._spaces

    def advance(self, rows: int) -> None:
        """End an epoch in which so many rows were read."""
        self._clock.advance(EPOCH_NS)
        self._rate = rows / self.pages / (EPOCH_NS / NS_PER_S)

    def refresh(self) -> SpacesChanged | None:
        """Return None: a tensor keeps its pages."""
        return None

    def usage(self) -> Usage:
        """Return slots and pages."""
        protocol = self._mover.protocol
        placed = protocol.placed
        none = np.zeros(2, np.int64)
        return Usage(
            np.array([protocol.end, self.pages], np.int64),
            np.array([placed, self.pages - placed], np.int64),
            none,
            none,
            none,
            none,
        )

    def placement(self) -> NDArray[np.uint8]:
        """Return where pages are, or are promised to be."""
        return self._mover.protocol.place

    def latency_ns(self) -> NDArray[np.float64]:
        """Return what a row costs the GPU, float64[1, 2]: bytes by bandwidth."""
        return self._row_ns[None, :].copy()

    def access_rate(self) -> float | None:
        """Return rows read per page per second of the tensor's clock."""
        return self._rate

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return what a page's move costs, float64[2, 2], [from, to].

        In: one reading of the page in the host arena. A copy does that; where readers
        deposit, it is the access that the page is promoted for and that still misses.
        Out: nothing; of a writable tensor the same, for what may be dirty.
        """
        inward = self._page_ns[HOST]
        outward = inward if self._mover.protocol.writable else 0.0
        return np.array([[0.0, outward], [inward, 0.0]])

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Accept moves; the device carries them out beside its launches."""
        status = np.full(len(page), errno.ENODEV, np.int16)
        cost = self.move_cost_ns()
        out, in_ = node == HOST, node == HBM
        status[out] = self._mover.demote(page[out])
        status[in_] = self._mover.promote(page[in_])
        done = status == 0
        cost_ns = float(np.count_nonzero(done & in_) * cost[HOST, HBM])
        cost_ns += float(np.count_nonzero(done & out) * cost[HBM, HOST])
        return MoveResult(status, cost_ns)


def _topology(
    mover: Mover,
    name: str,
    bytes_s: NDArray[np.float64],
    row_ns: NDArray[np.float64],
    source: Source,
) -> Topology:
    """Return HBM and host as nodes, with the GPU's row of figures."""
    g, device = mover.backend.geometry, mover.backend.device
    nodes = (
        Node(HBM, MemoryKind.GPU, source, g.slots * g.page_bytes, label=device),
        Node(HOST, MemoryKind.DRAM, source, g.pages * g.page_bytes, label="host"),
    )
    tiers = tuple(
        Tier(rank, None, (node.id,), source, "bandwidth of the GPU's reads")
        for rank, node in enumerate(nodes)
    )
    performance = tuple(
        AccessPerformance(
            0,
            node,
            Figure(float(row_ns[node]), source),
            None,
            Figure(float(bytes_s[node]) / MIB, source),
        )
        for node in (HBM, HOST)
    )
    initiators = (Initiator(0, InitiatorKind.GPU, HBM, device),)
    return Topology(nodes, tiers, initiators, performance, {}, (f"tensor {name}",))

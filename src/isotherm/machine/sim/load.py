"""What an epoch's accesses cost: who made them, what else loads the nodes.

Accesses are counted by row: one row for each stream of the workload, or for each
initiator where the workload has no streams. A row stalls for the latency of its
misses over its misses in flight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UsageError
from isotherm.core.units import CACHE_LINE_BYTES, NS_PER_S, PAGE_BYTES
from isotherm.machine.sim.queueing import factor_of_waiting, latency_factor
from isotherm.machine.sim.spec import MachineSpec
from isotherm.trace.stream import AccessStream, Background

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Halvings of the bracket of an epoch's true length: 12 times wide at first, so
#: that it ends below a millionth of itself.
HALVINGS = 24


#: Stall that an epoch's accesses need when it is stretched so much, nanoseconds.
Needed = Callable[[float], float]


class Link(Protocol):
    """Nodes that share a link."""

    def share_link(self, load_bytes: Floats) -> Floats:
        """Return what each node's queue sees of the bytes that nodes ask for."""
        ...


@dataclass(frozen=True, slots=True)
class Settled:
    """What one epoch took, before it is divided among those who pay.

    Attributes:
        factor: Loaded over unloaded latency, float64[nodes].
        access_ns: Stall of all accesses.
        all_fast_ns: The same with everything on the fastest tier.
        accesses: By initiator, int64[initiators, 2, 8].
    """

    factor: Floats
    access_ns: float
    all_fast_ns: float
    accesses: Ints


@dataclass(slots=True)
class Tally:
    """What the rows took since the start: float64 or int64[rows]."""

    access_ns: Floats
    all_fast_ns: Floats
    accesses: Ints
    fast_accesses: Ints


class Load:
    """Latencies and bandwidths of a machine, and all that asks for them.

    Args:
        spec: The machine.
        pages: Footprint: bandwidths, background and threads are scaled to it.
        streams: The workload's streams.
        background: Traffic of others, beyond the machine's own.

    Raises:
        UsageError: A stream has an initiator that the machine lacks, or traffic is
            for a node that is not there or has no bandwidth to share.
    """

    def __init__(
        self,
        spec: MachineSpec,
        pages: int,
        streams: tuple[AccessStream, ...] = (),
        background: tuple[Background, ...] = (),
    ) -> None:
        self._spec = spec
        if spec.uniform_stall and not any(
            s.workload is not None or s.initiator or s.thread for s in streams
        ):
            streams = ()  # they differ in nothing that counts here
        self.streams = streams
        #: Whether some of them may be run on another initiator.
        self.has_threads = any(stream.thread for stream in streams)
        self.nodes = len(spec.nodes)
        self.tier_rank = np.array([n.tier for n in spec.nodes], np.int64)
        self._fast = self.tier_rank == 0
        #: Initiators that stand for unnamed accesses: those of the first one's kind.
        self.unnamed = [
            i for i, kind in enumerate(spec.initiators) if kind is spec.initiators[0]
        ]
        self.read_ns = np.array([n.read_latency_ns for n in spec.nodes], np.float64).T
        self.write_ns = np.array(
            [n.write_latency_ns or n.read_latency_ns for n in spec.nodes], np.float64
        ).T
        scale = pages * PAGE_BYTES / (spec.reference_gib * (1 << 30))
        none = float("inf")
        self.read_gb_s = np.array(
            [(n.read_bandwidth_gb_s or none) * scale for n in spec.nodes]
        )
        self.write_gb_s = np.array(
            [
                (n.write_bandwidth_gb_s or n.read_bandwidth_gb_s or none) * scale
                for n in spec.nodes
            ]
        )
        self.scale = scale
        #: Threads that wait for memory, of a footprint of this size; None: none do.
        self.threads = None if spec.threads is None else spec.threads * scale
        self._take_streams(streams)
        self.background = (*spec.background, *background)
        for row in self.background:
            self._check_background(row)
        self._waiting = np.zeros((2, self.nodes))  # lines, as of the last epoch

    def _take_streams(self, streams: tuple[AccessStream, ...]) -> None:
        """Work out whose a row is, and what it stalls per nanosecond of latency."""
        spec, count = self._spec, len(self._spec.initiators)
        for stream in streams:
            if not 0 <= (stream.initiator or 0) < count:
                raise UsageError(
                    f"workload: stream {stream.name!r}: machine {spec.name} has"
                    f" initiators 0 to {count - 1}, got {stream.initiator}",
                    hint="a machine's `initiators` names them, in order",
                )
        rows = streams or tuple(AccessStream("", initiator=i) for i in range(count))
        self.initiator = np.array([s.initiator or 0 for s in rows], np.int64)
        self.rows = len(rows)
        self.parallelism = np.array(
            [
                spec.parallelism_of(int(who), row.parallelism)
                for who, row in zip(self.initiator, rows, strict=True)
            ]
        )
        self.miss_share = np.array([row.miss_share for row in rows])
        if spec.uniform_stall:
            self.parallelism[:] = spec.parallelism
            self.miss_share[:] = 1.0
        self.weight: Floats = self.miss_share / self.parallelism
        self.alike = bool(
            (self.parallelism == spec.parallelism).all()
            and (self.miss_share == 1.0).all()
        )
        self.tally = Tally(
            np.zeros(self.rows),
            np.zeros(self.rows),
            np.zeros(self.rows, np.int64),
            np.zeros(self.rows, np.int64),
        )
        self._latency_ns = 0.0
        #: Accesses that shared a latency in the last epoch, on average.
        self.met_parallelism = spec.parallelism

    def run_on(self, row: int, initiator: int) -> None:
        """Have a stream's accesses made by another initiator from now on.

        Raises:
            UsageError: The machine lacks it, or the stream is no thread.
        """
        if not (0 <= row < len(self.streams) and self.streams[row].thread):
            raise UsageError(f"stream {row}: expected a thread of the workload")
        if not 0 <= initiator < len(self._spec.initiators):
            raise UsageError(
                f"stream {row}: expected initiators 0 to"
                f" {len(self._spec.initiators) - 1}, got {initiator}"
            )
        self.initiator[row] = initiator
        if not self._spec.uniform_stall:
            stated = self.streams[row].parallelism
            self.parallelism[row] = self._spec.parallelism_of(initiator, stated)
            self.weight[row] = self.miss_share[row] / self.parallelism[row]

    def _check_background(self, row: Background) -> None:
        name = self._spec.name
        if not 0 <= row.node < self.nodes:
            raise UsageError(
                f"background: machine {name} has nodes 0 to {self.nodes - 1}, "
                f"got {row.node}"
            )
        if np.isinf(self.read_gb_s[row.node]):
            raise UsageError(
                f"background: node {row.node} of machine {name} has no bandwidth"
                " limit, so that no traffic would load it",
                hint="give the node read_bandwidth_gb_s, or take dram-cxl-fast",
            )

    @property
    def mean_latency_ns(self) -> float:
        """Mean latency of the misses so far, nanoseconds; 0 before the first."""
        misses = float(self.tally.accesses @ self.miss_share)
        return self._latency_ns / misses if misses else 0.0

    def report(
        self, overhead_ns: float, merged: str | None = None
    ) -> list[dict[str, Any]]:
        """Return what every stream, or every workload, has met, as JSON values.

        Overhead is shared by accesses, so that the slowdowns, weighed by the
        all-fast times, add up to that of the whole.

        Args:
            overhead_ns: What moving and looking took.
            merged: Put the streams of one workload together; those that name none
                belong to this one.
        """
        rows = {s.name: [i] for i, s in enumerate(self.streams)}
        if merged is not None:
            rows = {}
            for i, stream in enumerate(self.streams):
                rows.setdefault(stream.workload or merged, []).append(i)
        tally, total = self.tally, max(1, int(self.tally.accesses.sum()))
        out = []
        for name, at in rows.items():
            accesses = int(tally.accesses[at].sum())
            stall_ns = float(tally.access_ns[at].sum())
            all_fast_ns = float(tally.all_fast_ns[at].sum())
            cost_ns = stall_ns + overhead_ns * accesses / total
            out.append(
                {
                    "name": name,
                    "accesses": accesses,
                    "fast_share": int(tally.fast_accesses[at].sum()) / max(1, accesses),
                    "stall_ns": stall_ns,
                    "all_fast_ns": all_fast_ns,
                    "slowdown": cost_ns / all_fast_ns if all_fast_ns else None,
                }
            )
        return out

    @property
    def queues(self) -> bool:
        """Whether a node has a limit of bandwidth."""
        return not bool(
            np.isinf(self.read_gb_s).all() and np.isinf(self.write_gb_s).all()
        )

    def background_bytes(self, start_ns: int, dt_ns: int) -> Floats:
        """Return what others read and write in an epoch, float64[2, nodes]."""
        out = np.zeros((2, self.nodes))
        self._waiting = np.zeros((2, self.nodes))
        for row in self.background:
            begin = max(start_ns, row.from_s * NS_PER_S)
            end = float(start_ns + dt_ns)
            if row.until_s is not None:
                end = min(end, row.until_s * NS_PER_S)
            span_ns = max(0.0, end - begin) * self.scale
            out[0, row.node] += row.read_gb_s * span_ns
            out[1, row.node] += row.write_gb_s * span_ns
            lines = row.in_flight * span_ns / dt_ns
            self._waiting[:, row.node] += lines, lines * row.written_back
        return out

    def _wait(
        self, asked: Floats, room: Floats, waiting: Floats, base_ns: Floats, dt_ns: int
    ) -> Floats:
        """Return the factors of nodes, with the traffic that waits for them.

        So many lines in flight are so many a latency (Little's law): the slower a
        node, the fewer bytes.

        Args:
            asked: Bytes of all else, float64[2, nodes].
            room: What the nodes could read and write, likewise.
            waiting: Lines in flight, likewise.
            base_ns: Unloaded latency, float64[nodes].
            dt_ns: Length of the epoch.
        """
        share = self._spec.queue_share
        factor = latency_factor(asked[0], asked[1], room[0], room[1], share)
        if waiting.any():
            load = (asked / room).sum(0)
            most = (waiting * CACHE_LINE_BYTES * dt_ns / room).sum(0) / base_ns
            for node in np.flatnonzero(most):
                factor[node] = factor_of_waiting(
                    float(load[node]), float(most[node]), share
                )
        return factor

    def settle(
        self,
        counts: Ints,
        moved: Floats,
        others: Floats,
        dt_ns: int,
        link: Link | None = None,
        extra_ns: float = 0.0,
    ) -> Settled:
        """Work out an epoch's latencies and stall; add it to the rows' tally.

        Args:
            counts: Accesses, int64[rows, 2, 8]: [row, is write, node].
            moved: Bytes read and written by migration, float64[2, nodes].
            others: Bytes of background traffic, likewise.
            dt_ns: Length of the epoch.
            link: Shares a link among nodes, where they share one.
            extra_ns: Latency that a device adds to all accesses together.
        """
        accesses = self._by_initiator(counts)
        per_row = counts[:, :, : self.nodes]
        asked = per_row * self.miss_share[:, None, None]
        demand = np.stack([asked[:, 0].sum(0), asked[:, 1].sum(0)]) * float(
            CACHE_LINE_BYTES
        )
        fixed = moved + others
        stretch = 1.0
        if self.threads is not None:
            stretch = self._stretch(asked, demand, fixed, dt_ns, link)
        factor = self._factor(demand / stretch + fixed, dt_ns, link)
        fast_stretch = 1.0
        if self.threads is not None:
            fast_stretch = self._fast_stretch(asked, demand, others, dt_ns)
        load = self._fast_factor(demand / fast_stretch, others, dt_ns)
        if self.alike:
            by_who = accesses[:, :, : self.nodes]
            access_ns = float((by_who[:, 0] * self.read_ns * factor).sum())
            access_ns += float((by_who[:, 1] * self.write_ns * factor).sum())
            reads, writes = by_who[:, 0].sum(1), by_who[:, 1].sum(1)
            all_fast_ns = float((reads * self.read_ns[:, self._fast].min(1)).sum())
            all_fast_ns += float((writes * self.write_ns[:, self._fast].min(1)).sum())
            all_fast_ns *= load
            access_ns += extra_ns
            one = self._spec.parallelism
            settled = Settled(factor, access_ns / one, all_fast_ns / one, accesses)
            if self.streams:
                self._tell_rows(asked, factor, load)
        else:
            accesses_by_row = per_row.sum((1, 2))
            if waited := float(accesses_by_row @ self.weight):
                self.met_parallelism = float(accesses_by_row.sum()) / waited
            rows_ns, fast_ns = self._tell_rows(asked, factor, load)
            stall_ns = float(rows_ns.sum()) + extra_ns / self.met_parallelism
            settled = Settled(factor, stall_ns, float(fast_ns.sum()), accesses)
        self.tally.accesses += per_row.sum((1, 2))
        self.tally.fast_accesses += per_row[:, :, self._fast].sum((1, 2))
        return settled

    def _by_initiator(self, counts: Ints) -> Ints:
        if not self.streams:
            return counts
        shape = (len(self._spec.initiators), *counts.shape[1:])
        accesses = np.zeros(shape, np.int64)
        np.add.at(accesses, self.initiator, counts)
        return accesses

    def _tell_rows(
        self, asked: Floats, factor: Floats, load: float
    ) -> tuple[Floats, Floats]:
        """Return every row's stall and what it were all fast; add both up."""
        read_ns, write_ns = self.read_ns[self.initiator], self.write_ns[self.initiator]
        latency = (asked[:, 0] * read_ns * factor).sum(1)
        latency += (asked[:, 1] * write_ns * factor).sum(1)
        fast = asked[:, 0].sum(1) * read_ns[:, self._fast].min(1)
        fast += asked[:, 1].sum(1) * write_ns[:, self._fast].min(1)
        rows_ns: Floats = latency / self.parallelism
        fast_ns: Floats = fast * load / self.parallelism
        self.tally.access_ns += rows_ns
        self.tally.all_fast_ns += fast_ns
        self._latency_ns += float(latency.sum())
        return rows_ns, fast_ns

    # ---- bandwidth

    def _factor(self, asked: Floats, dt_ns: int, link: Link | None) -> Floats:
        read, write = asked
        if link is not None:
            read, write = link.share_link(read), link.share_link(write)
        room = np.stack([self.read_gb_s, self.write_gb_s]) * dt_ns
        base_ns = self.read_ns.min(0)
        asked = np.stack([read, write])
        return self._wait(asked, room, self._waiting, base_ns, dt_ns)

    def _fast_factor(self, demand: Floats, others: Floats, dt_ns: int) -> float:
        """Return the factor of the fastest tier, were all demand to go there."""
        fast = self._fast
        asked = demand.sum(1) + others[:, fast].sum(1)
        room = np.stack([self.read_gb_s[fast], self.write_gb_s[fast]]).sum(1) * dt_ns
        waiting = self._waiting[:, fast].sum(1)
        base_ns = np.array([self.read_ns[:, fast].min()])
        factor = self._wait(
            asked[:, None], room[:, None], waiting[:, None], base_ns, dt_ns
        )
        return float(factor[0])

    # ---- the closed loop: accesses wait for those before them

    def _stretch(
        self,
        asked: Floats,
        demand: Floats,
        fixed: Floats,
        dt_ns: int,
        link: Link | None,
    ) -> float:
        """Return how long the threads take for the epoch's accesses, over ``dt_ns``."""
        read_ns, write_ns = self.read_ns[self.initiator], self.write_ns[self.initiator]
        stall = asked[:, 0] * read_ns + asked[:, 1] * write_ns
        by_node: Floats = (stall / self.parallelism[:, None]).sum(0)

        def needed(stretch: float) -> float:
            factor = self._factor(demand / stretch + fixed, dt_ns, link)
            return float(by_node @ factor)

        return self._solve(needed, float(by_node.sum()), dt_ns)

    def _fast_stretch(
        self, asked: Floats, demand: Floats, others: Floats, dt_ns: int
    ) -> float:
        """Return the same with everything on the fastest tier."""
        fast = self._fast
        read_ns = self.read_ns[self.initiator][:, fast].min(1)
        write_ns = self.write_ns[self.initiator][:, fast].min(1)
        stall = asked[:, 0].sum(1) * read_ns + asked[:, 1].sum(1) * write_ns
        unloaded = float((stall / self.parallelism).sum())

        def needed(stretch: float) -> float:
            return unloaded * self._fast_factor(demand / stretch, others, dt_ns)

        return self._solve(needed, unloaded, dt_ns)

    def _solve(self, needed: Needed, unloaded_ns: float, dt_ns: int) -> float:
        """Return the stretch at which the threads are busy all the time.

        What is needed falls as the stretch grows (less load), so that there is
        one such stretch; it lies between the unloaded and the most loaded time.
        """
        have = (self.threads or 1.0) * dt_ns
        if unloaded_ns <= 0:
            return 1.0
        low = unloaded_ns / have
        high = max(low, needed(low) / have)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            if needed(middle) > middle * have:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)

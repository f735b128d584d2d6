"""The Linux host as a machine: what the loop sees of it, and moves in it."""

import errno
import time
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.clock import Clock, MonotonicClock
from isotherm.core.errors import NotPermittedError
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux import advice, sharing, syscalls
from isotherm.machine.linux.intervals import EMPTY, Ranges, normalised
from isotherm.machine.linux.mover import Mover
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.placement import PlacementTable, Turns
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import GRANULE, SpaceMap
from isotherm.machine.linux.targets.follow import Follower, TargetEvent
from isotherm.machine.linux.unmovable import Unmovable
from isotherm.machine.protocol import MoveResult, Space, SpacesChanged, Usage
from isotherm.topology.model import Topology


class LinuxMachine:
    """A host with its nodes, and the memory of the processes that are followed.

    ``move`` may be called from another thread than all the rest.

    Args:
        follower: Whose memory; closed with the machine.
        nodes: The host's nodes; None: this host as its kernel says.
        placement_budget_ns: Time a refresh may take for reading where pages are.
        move_all: Move pages that several processes map as well, which moves them
            for strangers too (MPOL_MF_MOVE_ALL, CAP_SYS_NICE).
        clock: CLOCK_MONOTONIC unless told.

    Raises:
        NotPermittedError: We may not move the pages of a process that was named.
        TopologyError: The host does not say which nodes there are.
    """

    def __init__(
        self,
        follower: Follower,
        nodes: HostNodes | None = None,
        *,
        placement_budget_ns: float = 2e6,
        move_all: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.follower = follower
        self.nodes = nodes or HostNodes()
        self.space_map = SpaceMap()
        policy = follower.policy
        self._shares = policy.shmem or policy.file
        #: Who manages what several processes map.
        self.shared = sharing.Shared()
        self.unmovable = Unmovable()
        self._clock = clock or MonotonicClock()
        self._budget_ns = placement_budget_ns
        self._table = PlacementTable(self.space_map, self.nodes)
        self.mover = Mover(
            follower.targets,
            self.nodes,
            self.space_map,
            self._table,
            self.unmovable,
            self._clock,
            move_all=move_all,
        )
        self._version = -1
        self._spaces: tuple[Space, ...] = ()
        self._spaces_version = -1
        self.refresh()
        self._check_permission()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all descriptors back. Nothing of the host was changed."""
        self.follower.close()

    def _check_permission(self) -> None:
        for target in list(self.follower.targets.values()):
            answer = target.process.move_pages(np.zeros(1, np.uint64), None)
            if answer.result in (-errno.EPERM, -errno.EACCES):
                raise NotPermittedError(
                    f"pid {target.pid}: cannot move its pages: EPERM",
                    hint="run as root, or with CAP_SYS_NICE and CAP_SYS_PTRACE",
                )

    # -- the Machine protocol ---------------------------------------------

    @property
    def clock(self) -> Clock:
        """CLOCK_MONOTONIC."""
        return self._clock

    @property
    def topology(self) -> Topology:
        """Nodes as of the last refresh; those that may come are in it, empty."""
        return self.nodes.topology

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What is managed of each process; owners are ``pid N comm``."""
        version = self.space_map.version
        if version != self._spaces_version:
            owner = {t.pid: t.owner for t in self.follower.targets.values()}
            columns = (column.tolist() for column in self.space_map.extents())
            self._spaces = tuple(
                Space(base, end - base, owner.get(pid, f"pid {pid}"), start)
                for base, end, start, pid in zip(*columns, strict=True)
            )
            self._spaces_version = version
        return self._spaces

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        return len(self._table.node)

    def refresh(self) -> SpacesChanged | None:
        """See what processes, mappings and nodes did; read some of the placement.

        A change of nodes or tiers alone is told as a change without pages. Pages on
        a node that leaves are the kernel's to move; they are read again in turn.
        """
        self._enter_landed()
        now_ns = self._clock.now_ns()
        before = self.nodes.topology
        nodes_changed = self.nodes.refresh()
        if nodes_changed:
            self.follower.reread_cpusets()
        changed, void = self.follower.scan(now_ns)
        for pid in void:
            self.space_map.forget(pid)
        if self._shares and (changed or void):
            self._share()
        else:
            for target in changed:
                self.space_map.update(target.pid, target.managed.ranges)
        renewed = self.space_map.take_renewed()
        version = self.space_map.version
        has_changed = version != self._version or len(renewed) > 0
        if has_changed:
            self._table.renew(self.space_map.pages, renewed)
        self.unmovable.refresh(renewed, now_ns)
        self._table.turn(self._processes(), self._budget_ns, now_ns)
        self._version = version
        if not has_changed and not nodes_changed:
            return None
        topology = self.nodes.topology
        same = _shape(topology) == _shape(before)
        return SpacesChanged(self.pages, renewed, None if same else topology)

    def _share(self) -> None:
        """Give what several processes map to one of them, and the rest to its own."""
        self.shared = sharing.split(self.follower.targets.values())
        for pid, ranges in self.shared.own.items():
            self.space_map.update(pid, ranges)
        self.space_map.set_aliases(self.shared.aliases)

    def usage(self) -> Usage:
        """Return capacity, use and watermarks per node, of the whole host."""
        return self.nodes.usage()

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every flat page, as far as it is known by now."""
        self._enter_landed()
        return self._table.node

    def latency_ns(self) -> NDArray[np.float64]:
        """Return unloaded read latencies; ``nodes.latencies`` says who said them."""
        return self.nodes.latencies.ns

    def access_rate(self) -> float | None:
        """Return None: nobody counts accesses without a counting PMU."""
        return None

    @property
    def parallelism(self) -> float:
        """1: accesses in flight together are not known from outside."""
        return 1.0

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages, each to its node; see the protocol.

        errno: ENOENT nobody has the page, or it has no memory; EFAULT beyond the
        index, or the page of zeros; ESRCH the process has ended; ENODEV no such
        node; EXDEV cpuset or memory policy of the target forbid the node; EACCES
        several processes map it; ENOMEM no room; EBUSY, EAGAIN it stayed this time;
        EOPNOTSUPP it stays each time: pinned; EHWPOISON its frame is broken.
        """
        return self.mover.move(page, node)

    # -- beyond the protocol ----------------------------------------------

    @property
    def turns(self) -> Turns:
        """How far reading the placement has come, and what it cost."""
        return self._table.turns

    def reread(self, ranges: Ranges) -> None:
        """Read where the pages of flat ranges, int64[n, 2], are now."""
        self._table.reread(self._processes(), normalised(ranges))

    def take_events(self) -> list[TargetEvent]:
        """Return what has happened to processes since the last call."""
        events: list[TargetEvent] = []
        while self.follower.events:
            events.append(self.follower.events.popleft())
        return events

    def left_out(self) -> dict[str, int]:
        """Return the pages that are not managed, by kind or reason."""
        pages: dict[str, int] = {}
        for target in self.follower.targets.values():
            for reason, count in target.managed.left_out.items():
                pages[reason] = pages.get(reason, 0) + count
        if self.space_map.left_out_pages:
            pages["no room in the index"] = self.space_map.left_out_pages
        return pages

    def unmovable_pages(self) -> dict[str, int]:
        """Return pages that are not tried: set aside, and left out as such."""
        left_out = self.left_out()
        held = {name: left_out.get(name, 0) for name in ("mlocked", "hugetlb")}
        return self.unmovable.counts() | held

    def screen(
        self, page: NDArray[np.uint32], node: NDArray[np.uint8]
    ) -> NDArray[np.int16]:
        """Return the errno with which ``move`` would refuse without trying, else 0."""
        return self.mover.screen(page, node, *self.space_map.locate(page))

    def cold(self, page: NDArray[np.uint32]) -> int:
        """Have the kernel reclaim pages first, where it must; return pages advised."""
        advised = 0
        for process, vpage in self._by_process(page):
            done = process.madvise(advice.runs_of(vpage), syscalls.MADV_COLD)
            advised += max(done, 0) // PAGE_BYTES
        return advised

    def collapse(self, page: NDArray[np.uint32]) -> MoveResult:
        """Make huge pages of the granules that begin at some flat pages.

        Args:
            page: First flat pages of granules: multiples of 512, uint32[n].
        """
        began = time.perf_counter_ns()
        pid, vpage = self.space_map.locate(page)
        code = np.full(len(page), errno.ENOENT, np.int16)
        code[(vpage % GRANULE) != 0] = errno.EINVAL
        for owner in np.unique(pid[code == errno.ENOENT]).tolist():
            rows = np.flatnonzero((pid == owner) & (code == errno.ENOENT))
            target = self.follower.targets.get(owner)
            if target is not None:
                granule = (vpage[rows] // GRANULE).astype(np.int64)
                code[rows] = advice.collapse(target.process, granule)
        done = page[code == 0].astype(np.int64)
        self._table.look_at(np.stack([done, done + GRANULE], axis=1))
        return MoveResult(code, float(time.perf_counter_ns() - began))

    def _processes(self) -> dict[int, Process]:
        return {t.pid: t.process for t in self.follower.targets.values()}

    def _by_process(
        self, page: NDArray[np.uint32]
    ) -> Iterator[tuple[Process, NDArray[np.uint64]]]:
        """Give each process with its pages, ascending and distinct."""
        pid, vpage = self.space_map.locate(page)
        for owner in np.unique(pid).tolist():
            target = self.follower.targets.get(owner)
            if target is not None:
                yield target.process, np.unique(vpage[pid == owner])

    def _enter_landed(self) -> None:
        """Enter in the table what was moved since the last call."""
        whole: list[Ranges] = [EMPTY]
        landed = self.mover.landed
        while landed:
            done = landed.popleft()
            page, node = done.page, done.node
            if done.version != self.space_map.version:
                pid, vpage = self.space_map.locate(page)
                same = (pid == done.pid) & (vpage == done.vpage)
                page, node = page[same], node[same]
            self._table.enter(page, node)
            whole.append(done.whole)
        more = normalised(np.concatenate(whole))
        if len(more):
            self.reread(more)


def _shape(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Return what parts above derive from a topology: node ids, and tiers of nodes."""
    ids = tuple(node.id for node in topology.nodes)
    return (ids, *(tier.nodes for tier in topology.tiers))

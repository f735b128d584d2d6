"""One followed process: what of it is managed, and what it does not allow."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.linux import pagemap
from isotherm.machine.linux.intervals import (
    EMPTY,
    Ranges,
    difference,
    intersection,
    normalised,
    total,
)
from isotherm.machine.linux.mappings import (
    Managed,
    MappingPolicy,
    Mappings,
    NumaMaps,
    parse_locked,
    parse_maps,
    parse_numa_maps,
)
from isotherm.machine.linux.process import Process, Stat
from isotherm.machine.linux.spaces import GRANULE
from isotherm.topology.parse import MAX_NODES, parse_list

#: A process that maps more than twice what it holds, and 256 MiB, reserves: only
#: granules with something in them are managed. Sanitizers and managed runtimes map
#: terabytes.
_SLACK_PAGES: Final = 1 << 16
#: Mappings shorter than 32 MiB are taken whole even so.
_SHORT_PAGES: Final = 1 << 13

_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*([0-9,-]+)", re.MULTILINE)
_LOCKED = re.compile(rb"^VmLck:\s*([0-9]+) kB", re.MULTILINE)
_SWAPPED = re.compile(rb"^VmSwap:\s*([0-9]+) kB", re.MULTILINE)


@dataclass(slots=True)
class Target:
    """A followed process.

    Attributes:
        process: The process.
        stat: What its ``stat`` said last.
        parent: The followed process it was found under, 0 if it was named.
        member: It is followed because it is in a cgroup, and as long as it is.
        mappings: As read last.
        managed: What of them is managed.
        allowed: Nodes its cpuset allows; None: all.
        bound: First and last page and nodes of mappings bound to nodes, ascending.
        locked: Locked pages.
        rules: Policies of its mappings as read last; None: not yet.
        ruled: Pages whose policy they tell.
        has_new: Managed mappings begin where none did then.
        seen: What ``stat`` said when its mappings were read last.
        read_ns: When that was; 0: never.
        status_ns: When cpuset, swap and the sum of locks were read last.
        rules_ns: When policies and locks were read last.
        rules_cost_ns: What that took.
        swapped_pages: What it has in swap.
        locks: Whether it has locked memory.
    """

    process: Process
    stat: Stat
    parent: int = 0
    member: bool = False
    mappings: Mappings = field(default_factory=lambda: parse_maps(b""))
    managed: Managed = field(default_factory=lambda: Managed(EMPTY))
    allowed: frozenset[int] | None = None
    bound: tuple[tuple[int, int, frozenset[int]], ...] = ()
    locked: Ranges = field(default_factory=lambda: EMPTY)
    rules: NumaMaps | None = None
    ruled: Ranges = field(default_factory=lambda: EMPTY)
    has_new: bool = False
    read_ns: int = 0
    status_ns: int = 0
    rules_ns: int = 0
    rules_cost_ns: int = 0
    swapped_pages: int = 0
    locks: bool = False
    seen: Stat = field(init=False)

    def __post_init__(self) -> None:
        self.seen = self.stat

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def owner(self) -> str:
        """Name of its spaces, for people."""
        return f"pid {self.process.pid} {self.stat.comm}"

    def forget(self) -> None:
        """Forget what was true of the program before an exec."""
        self.process.renew()
        self.mappings, self.managed = parse_maps(b""), Managed(EMPTY)
        self.bound, self.rules, self.locked = (), None, EMPTY
        self.ruled, self.has_new = EMPTY, False
        self.read_ns = self.rules_ns = self.rules_cost_ns = self.status_ns = 0

    def read_mappings(self, policy: MappingPolicy) -> bool:
        """Read what is mapped; return whether what is managed has changed.

        A mapping that is newer than the rules read last may be bound to nodes: it
        is left out (``new``) until they are read again.

        Raises:
            TargetGoneError: It has ended.
            NotPermittedError: We may not look.
        """
        before = self.managed.ranges
        self.seen = self.stat
        self.mappings = self.process.mappings()
        rules = self.rules or NumaMaps()
        huge = self._ranges_of(np.isin(self.mappings.start, list(rules.hugetlb)))
        managed = policy.select(self.mappings, self.locked, huge)
        if self.rules is not None:
            managed = self._only_known(managed, rules)
        self.bound = self._derive_bound(rules.bound)
        held = self.stat.rss_pages + self.swapped_pages
        if total(managed.ranges) > 2 * held + _SLACK_PAGES:
            managed = self._only_populated(managed)
        self.managed = managed
        return not np.array_equal(before, managed.ranges)

    def _ranges_of(self, chosen: NDArray[np.bool_]) -> Ranges:
        """Return the pages of some mappings, normalised."""
        table = np.stack([self.mappings.start, self.mappings.end], axis=1)
        return normalised(table[chosen])

    def _only_known(self, managed: Managed, rules: NumaMaps) -> Managed:
        """Leave out pages whose policy is not known; note whether some may be new.

        A mapping that grows upwards keeps its beginning and its policy. One that
        begins elsewhere has been split, by mbind(2) perhaps, or joined with one
        below: what was there stays.
        """
        known = np.isin(self.mappings.start, list(rules.known))
        still = intersection(self.ruled, self._ranges_of(np.ones(len(known), np.bool_)))
        self.ruled = normalised(np.concatenate([still, self._ranges_of(known)]))
        moved = intersection(managed.ranges, self._ranges_of(~known))
        self.has_new = len(moved) > 0
        new = difference(moved, self.ruled)
        if not len(new):
            return managed
        kept = difference(managed.ranges, new)
        return Managed(kept, managed.left_out | {"new": total(new)})

    def _derive_bound(
        self, lists: Mapping[int, str]
    ) -> tuple[tuple[int, int, frozenset[int]], ...]:
        """Return the pages that are bound to nodes, ascending.

        What was bound when the rules were read is until they are read again.
        """
        if not lists:
            return ()
        mappings = self.mappings
        ends = dict(zip(mappings.start.tolist(), mappings.end.tolist(), strict=True))
        before = {start: end for start, end, _ in self.bound}
        rows = (
            (start, max(ends.get(start, 0), before.get(start, 0)), text)
            for start, text in sorted(lists.items())
        )
        return tuple(
            (start, end, frozenset(parse_list(text, MAX_NODES)))
            for start, end, text in rows
            if end
        )

    def _only_populated(self, managed: Managed) -> Managed:
        """Return the granules of long mappings that have pages, and short mappings."""
        ranges = managed.ranges
        long = ranges[:, 1] - ranges[:, 0] >= _SHORT_PAGES
        fd = self.process.pagemap_fd()
        there = pagemap.PAGE_IS_PRESENT | pagemap.PAGE_IS_SWAPPED
        found: list[NDArray[np.int64]] = []
        for start, end in ranges[long].tolist():
            scan = pagemap.scan(fd, start, end, any_of=there)
            if scan.error:
                # Linux before 6.7: such mappings have to be left out.
                continue
            found.append(scan.regions[:, :2])
        pages = normalised(np.concatenate([EMPTY, *found]))
        pages[:, 0] -= pages[:, 0] % GRANULE
        pages[:, 1] += -pages[:, 1] % GRANULE
        kept = intersection(normalised(pages), ranges[long])
        left_out = dict(managed.left_out)
        empty = total(ranges[long]) - total(kept)
        if empty:
            left_out["empty"] = left_out.get("empty", 0) + empty
        return Managed(normalised(np.concatenate([ranges[~long], kept])), left_out)

    def read_status(self, now_ns: int) -> None:
        """Read which nodes its cpuset allows, and how much is locked and swapped.

        Raises:
            TargetGoneError: It has ended.
        """
        status = self.process.read_bytes("status")
        self.allowed = _node_list(_ALLOWED, status)
        swapped, locked = _SWAPPED.search(status), _LOCKED.search(status)
        self.swapped_pages = int(swapped[1]) // 4 if swapped else 0
        self.locks = locked is not None and int(locked[1]) > 0
        self.status_ns = max(now_ns, 1)

    def read_rules(self) -> None:
        """Read which mappings have a memory policy or are locked; then mappings.

        ``numa_maps``, and ``smaps`` if something is locked, walk its page tables:
        20 to 140 ns a page, so this is called seldom.

        Raises:
            TargetGoneError: It has ended.
            NotPermittedError: We may not look.
        """
        self.locked = EMPTY
        if self.locks:
            self.locked = parse_locked(self.process.read_bytes("smaps"))
        self.rules = parse_numa_maps(self.process.read_bytes("numa_maps"))
        self.bound, self.ruled = (), EMPTY

    def allows(
        self, vpage: NDArray[np.uint64], node: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Return whether cpuset and policy let each page be on its node, bool[n]."""
        fine = _among(node, self.allowed)
        if self.bound:
            starts = np.array([row[0] for row in self.bound], np.int64)
            page = vpage.astype(np.int64)
            at = np.searchsorted(starts, page, side="right") - 1
            for row in np.unique(at[at >= 0]).tolist():
                _, end, nodes = self.bound[row]
                here = (at == row) & (page < end)
                fine[here] &= _among(node[here], nodes)
        return fine


def _among(node: NDArray[np.uint8], nodes: Iterable[int] | None) -> NDArray[np.bool_]:
    if nodes is None:
        return np.ones(len(node), np.bool_)
    return np.isin(node, np.array([n for n in nodes if n < 256], np.uint8))


def _node_list(pattern: re.Pattern[bytes], text: bytes) -> frozenset[int] | None:
    found = pattern.search(text)
    if found is None:
        return None
    return frozenset(parse_list(found[1].decode(), MAX_NODES))

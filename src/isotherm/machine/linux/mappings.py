"""Mappings of a process: what each is, and which of them are managed."""

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux.intervals import (
    EMPTY,
    Ranges,
    difference,
    intersection,
    normalised,
    total,
)


class Kind(IntEnum):
    """What stands behind a mapping."""

    ANONYMOUS = 0
    SHMEM = 1
    FILE = 2
    HUGETLB = 3
    DEVICE = 4
    SPECIAL = 5


@dataclass(frozen=True, slots=True)
class Mappings:
    """The mappings of one process, ascending by address, as columns.

    Attributes:
        start: First virtual page, int64[n].
        end: One past the last, int64[n].
        kind: A ``Kind``, uint8[n].
        readable: bool[n].
        writable: bool[n].
        shared: bool[n].
        name: What ``maps`` calls each; empty for nameless anonymous memory.
        device: Of the file behind it, major << 32 | minor, int64[n].
        inode: Of the file, 0 for none, int64[n].
        offset: Page of the file at which it begins, int64[n].
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    writable: NDArray[np.bool_]
    shared: NDArray[np.bool_]
    name: tuple[str, ...]
    device: NDArray[np.int64]
    inode: NDArray[np.int64]
    offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def ranges(self, rows: NDArray[np.bool_] | None = None) -> Ranges:
        """Return the pages of the chosen rows, normalised."""
        table = np.stack([self.start, self.end], axis=1)
        return normalised(table if rows is None else table[rows])

    def name_of(self, vpage: int) -> str | None:
        """Return the name of the mapping that holds a page, None if none does."""
        at = int(np.searchsorted(self.start, vpage, side="right")) - 1
        return self.name[at] if at >= 0 and vpage < self.end[at] else None


_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (r|-)(w|-).(s|p) "
    rb"([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb"[ \t]*([^\n]*)$",
    re.MULTILINE,
)

#: Names of memory that is the process's own: show_map_vma() in fs/proc/task_mmu.c,
#: and PR_SET_VMA_ANON_NAME.
_OWN: Final = ("[heap]", "[stack]", "[stack:")
_DELETED: Final = " (deleted)"


def derive_kind(name: str, inode: int, shared: bool) -> Kind:
    """Return what stands behind a mapping, from its line in ``maps``.

    Anything in brackets that is not known to be plain memory is SPECIAL (vdso,
    vvar, vsyscall, uprobes and what may come), anything under ``/dev`` but shared
    memory a DEVICE, as are the anonymous inodes of drivers.

    >>> derive_kind("[heap]", 0, False).name, derive_kind("[vvar]", 0, False).name
    ('ANONYMOUS', 'SPECIAL')
    >>> derive_kind("/memfd:x (deleted)", 7, True).name
    'SHMEM'
    """
    if not name:
        return Kind.ANONYMOUS if inode == 0 else Kind.SPECIAL
    if name.startswith("["):
        if name.startswith("[anon_shmem:"):
            return Kind.SHMEM
        own = name.startswith((*_OWN, "[anon:"))
        return Kind.ANONYMOUS if own else Kind.SPECIAL
    plain = name.removesuffix(_DELETED)
    if plain == "/dev/zero":
        # Private, it is anonymous memory that keeps its file; shared, it is shmem.
        return Kind.SHMEM if shared else Kind.ANONYMOUS
    if plain.startswith(("/memfd:", "/SYSV", "/dev/shm/")):  # noqa: S108  # a name
        return Kind.SHMEM
    if plain.startswith(("/anon_hugepage", "/dev/hugepages", "/hugetlb")):
        return Kind.HUGETLB
    if plain.startswith("/dev/") or not plain.startswith("/"):
        return Kind.DEVICE
    return Kind.FILE


def parse_maps(text: bytes) -> Mappings:
    """Return the mappings of a ``/proc/PID/maps`` file.

    Lines that are not mappings are passed over: a file that is read in pieces
    while the process maps and unmaps may hold one twice; the first counts.
    """
    rows: list[tuple[int, ...]] = []
    names: list[str] = []
    reached = 0
    for found in _LINE.finditer(text):
        start = int(found[1], 16) // PAGE_BYTES
        end = int(found[2], 16) // PAGE_BYTES
        if start < reached or end <= start or end > 1 << 51:
            continue  # vsyscall lies in the kernel's half
        reached = end
        shared = found[5] == b"s"
        name = found[10].decode("utf-8", "replace").rstrip()
        inode = int(found[9])
        kind = derive_kind(name, inode, shared)
        device = int(found[7], 16) << 32 | int(found[8], 16)
        offset = int(found[6], 16) // PAGE_BYTES
        flags = (found[3] == b"r", found[4] == b"w", shared)
        rows.append((start, end, kind, *flags, device, inode, offset))
        names.append(name)
    table = np.array(rows, np.int64).reshape(-1, 9)
    is_set = table[:, 3:6].astype(np.bool_)
    return Mappings(
        start=np.ascontiguousarray(table[:, 0]),
        end=np.ascontiguousarray(table[:, 1]),
        kind=table[:, 2].astype(np.uint8),
        readable=is_set[:, 0],
        writable=is_set[:, 1],
        shared=is_set[:, 2],
        name=tuple(names),
        device=np.ascontiguousarray(table[:, 6]),
        inode=np.ascontiguousarray(table[:, 7]),
        offset=np.ascontiguousarray(table[:, 8]),
    )


@dataclass(frozen=True, slots=True)
class Managed:
    """What of a process is managed, and how many pages are not, by reason."""

    ranges: Ranges
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MappingPolicy:
    """Which mappings are managed; never special ones, devices and huge page pools.

    Private anonymous memory always is, if it can be read or written: what can be
    neither is a reservation.

    Attributes:
        shmem: Shared memory as well. What several processes map moves only with
            ``move_all``.
        file: Pages of files as well.
        mlocked: Locked memory as well. The kernel would move it, but who locks
            memory may count on it to stay.
        least_pages: Runs of managed mappings shorter than this are left out: a
            move of them saves nothing, a table for them costs.
    """

    shmem: bool = False
    file: bool = False
    mlocked: bool = False
    least_pages: int = 16

    def select(
        self,
        mappings: Mappings,
        locked: Ranges = EMPTY,
        hugetlb: Ranges = EMPTY,
    ) -> Managed:
        """Return what is managed of a process.

        Args:
            mappings: All of its mappings.
            locked: Locked pages, normalised.
            hugetlb: Pages of huge page pools that their names do not tell.
        """
        kind = mappings.kind
        kinds = [Kind.ANONYMOUS]
        kinds += [Kind.SHMEM] if self.shmem else []
        kinds += [Kind.FILE] if self.file else []
        usable = mappings.readable | mappings.writable
        chosen = np.isin(kind, kinds) & usable
        wanted = mappings.ranges(chosen)
        left_out = {
            Kind(k).name.lower(): total(mappings.ranges(usable & (kind == k)))
            for k in Kind
            if k not in kinds and (usable & (kind == k)).any()
        }
        if (~usable).any():
            left_out["reserved"] = total(mappings.ranges(~usable))
        for reason, held in (
            ("hugetlb", hugetlb),
            ("mlocked", EMPTY if self.mlocked else locked),
        ):
            count = total(intersection(wanted, held))
            if count:
                left_out[reason] = left_out.get(reason, 0) + count
                wanted = difference(wanted, held)
        short = wanted[:, 1] - wanted[:, 0] < self.least_pages
        if short.any():
            left_out["short"] = total(wanted[short])
            wanted = wanted[~short]
        return Managed(wanted, left_out)


_POLICY = re.compile(
    rb"^([0-9a-f]+) ((?:prefer \(many\)|weighted interleave|[^ \n:=]+)"
    rb"(?:=[a-z_|]+)?(?::[0-9,-]+)?)(?: ([^\n]*))?$",
    re.MULTILINE,
)
#: Policies with nodes that memory is not to leave: for ``prefer`` they are a wish.
_BIND: Final = re.compile(
    rb"^(?:bind|interleave|weighted interleave)(?:=[a-z_|]+)?:([0-9,-]+)$"
)


@dataclass(frozen=True, slots=True)
class NumaMaps:
    """What ``/proc/PID/numa_maps`` says that ``maps`` does not.

    Attributes:
        bound: The node list of each mapping that is bound to nodes or interleaved
            over them, by first virtual page.
        hugetlb: First pages of those that are of a huge page pool.
        known: First pages of all: what is said of them, or that nothing is.
    """

    bound: dict[int, str] = field(default_factory=dict)
    hugetlb: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()


def parse_numa_maps(text: bytes) -> NumaMaps:
    r"""Return what a ``/proc/PID/numa_maps`` file says.

    >>> parse_numa_maps(b"7f0000000000 bind=static:1-2 anon=3 N1=3\n").bound
    {34091302912: '1-2'}
    """
    bound: dict[int, str] = {}
    huge: set[int] = set()
    known: set[int] = set()
    for found in _POLICY.finditer(text):
        start = int(found[1], 16) // PAGE_BYTES
        known.add(start)
        bind = _BIND.match(found[2])
        if bind is not None:
            bound[start] = bind[1].decode()
        words = (found[3] or b"").split()
        size = next((w for w in words if w.startswith(b"kernelpagesize_kB=")), b"=4")
        if b"huge" in words or int(size.partition(b"=")[2]) * 1024 > PAGE_BYTES:
            huge.add(start)
    return NumaMaps(bound, frozenset(huge), frozenset(known))


_SMAPS_HEAD = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) [r-][w-]", re.ASCII)


def parse_locked(smaps: bytes) -> Ranges:
    """Return the locked pages of a ``/proc/PID/smaps`` file, normalised.

    ``VmFlags`` with ``lo``; Linux 3.8 added the line.
    """
    rows: list[tuple[int, int]] = []
    here = (0, 0)
    for line in smaps.splitlines():
        head = _SMAPS_HEAD.match(line)
        if head is not None:
            here = (int(head[1], 16) // PAGE_BYTES, int(head[2], 16) // PAGE_BYTES)
        elif line.startswith(b"VmFlags:") and b"lo" in line.split():
            rows.append(here)
    return normalised(np.array(rows, np.int64).reshape(-1, 2))

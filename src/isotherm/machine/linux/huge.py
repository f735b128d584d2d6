"""Huge pages of a Linux host: which memory is huge, collapse, split, khugepaged.

Which ranges are huge is read by PAGEMAP_SCAN (Linux 6.7); a range is collapsed by
process_madvise(MADV_COLLAPSE) (Linux 6.1), and split by MADV_COLD on one of its small
pages: advice about a part of a huge page splits it first
(madvise_cold_or_pageout_pte_range() in mm/madvise.c), and that page goes to the end of
its list, no more. Moving one page does not split: move_pages(2) takes all of it along.
"""

import errno
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.clock import Clock
from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.machine.linux import advice, pagemap, syscalls
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.moving import FORBIDDEN
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import GRANULE
from isotherm.machine.linux.targets.target import Target
from isotherm.machine.protocol import NOT_PRESENT, HugePages, ResizeResult

THP: Final = Path("sys/kernel/mm/transparent_hugepage")
#: How often it is read which mappings the kernel may collapse by itself: smaps is
#: dear (63 to 140 ns a page).
ELIGIBLE_S: Final = 30.0
#: Beliefs until a change has been measured, and what a huge page costs to move:
#: docs/reference/huge-pages.md#costs.
SPLIT_NS: Final = 90e3
COLLAPSE_NS: Final = 500e3
MOVE_NS: Final = 200e3

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TlbFacts:
    """The TLB as it is told: no kernel says (``[huge_pages]`` of the configuration).

    Attributes:
        entries: Translations that it holds.
        walk_ns: What a miss of a small page costs.
        huge_walk_ns: What one of a huge page costs.
    """

    entries: int = 1536
    walk_ns: float = 53.0
    huge_walk_ns: float = 5.0


@dataclass(frozen=True, slots=True)
class Khugepaged:
    """The kernel's own thread, as sysfs sets it.

    Attributes:
        pages_per_s: What it scans; 0: it does not run.
    """

    pages_per_s: float

    @staticmethod
    def read(root: Path = Path("/")) -> "Khugepaged":
        """Return its pace; it runs while huge pages are enabled at all.

        Raises:
            UnsupportedError: The kernel has no transparent huge pages.
        """
        try:
            enabled = (root / THP / "enabled").read_text()
        except OSError as error:
            raise UnsupportedError(
                f"{root / THP}: no transparent huge pages: {error.strerror}",
                hint="leave --huge-pages out",
            ) from error
        pages, sleep_ms = (
            _number(root / THP / "khugepaged" / name)
            for name in ("pages_to_scan", "scan_sleep_millisecs")
        )
        if "[never]" in enabled or not pages:
            return Khugepaged(0.0)
        return Khugepaged(pages / max(sleep_ms or 0.0, 1.0) * 1000.0)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def parse_eligible(smaps: str) -> NDArray[np.int64]:
    r"""Return the ranges of virtual pages that may get huge pages by themselves.

    Those whose mapping says ``THPeligible: 1`` (Linux 4.20).

    Returns:
        int64[n, 2], [start, end), ascending.

    >>> text = "7f0000000000-7f0000400000 rw-p 0 0:0 0\nTHPeligible:    1\n"
    >>> (parse_eligible(text) - 0x7F0000000).tolist()
    [[0, 1024]]
    """
    found: list[tuple[int, int]] = []
    begin = end = 0
    for line in smaps.splitlines():
        head = line.partition(" ")[0]
        low, dash, high = head.partition("-")
        if dash:
            begin, end = int(low, 16) // PAGE_BYTES, int(high, 16) // PAGE_BYTES
        elif line.startswith("THPeligible:") and line.split()[1] == "1":
            found.append((begin, end))
    return np.array(found, np.int64).reshape(-1, 2)


class HugeHost:
    """Huge pages of the processes that a machine follows; see ``HugeMachine``.

    Args:
        machine: Whose memory.
        tlb: The TLB as it is told.
        root: Where /sys is.

    Raises:
        UnsupportedError: The kernel cannot say which memory is huge, or has none.
    """

    def __init__(
        self,
        machine: LinuxMachine,
        tlb: TlbFacts | None = None,
        root: Path = Path("/"),
    ) -> None:
        if not pagemap.can_scan():
            raise UnsupportedError(
                "huge pages: the kernel has no PAGEMAP_SCAN, which says where they are",
                hint="Linux 6.7 has it; leave --huge-pages out",
            )
        self._machine, self._root = machine, root
        self._tlb = tlb or TlbFacts()
        self._khugepaged = Khugepaged.read(root)
        self._eligible: dict[int, NDArray[np.int64]] = {}
        self._eligible_ns = -1

    @property
    def clock(self) -> Clock:
        """The machine's clock."""
        return self._machine.clock

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every flat page, as far as it is known by now."""
        return self._machine.placement()

    def huge_pages(self) -> HugePages:
        """Return which ranges are huge now, and which khugepaged may collapse."""
        n = self._machine.pages // GRANULE
        huge = np.zeros(n, np.bool_)
        would = np.zeros(n, np.bool_)
        present = pagemap.PAGE_IS_PRESENT | pagemap.PAGE_IS_HUGE
        self._read_eligible()
        base, end, start, pid = self._machine.space_map.extents()
        for owner in np.unique(pid).tolist():
            target = self._machine.follower.targets.get(owner)
            if target is None:
                continue
            rows = pid == owner
            span = (base[rows], end[rows], start[rows])
            _mark(huge, _huge_runs(target.process, span, present), span)
            _mark(would, self._eligible.get(owner, np.empty((0, 2), np.int64)), span)
        per_s = self._khugepaged.pages_per_s
        if per_s == 0:
            would[:] = False
        tlb = self._tlb
        return HugePages(
            huge,
            self._machine.pages / per_s if per_s > 0 else float("inf"),
            would,
            tlb.entries,
            tlb.walk_ns,
            tlb.huge_walk_ns,
            MOVE_NS,
            SPLIT_NS,
            COLLAPSE_NS,
        )

    def resize(self, page: NDArray[np.uint32], huge: NDArray[np.bool_]) -> ResizeResult:
        """Collapse or split ranges, in order; see the protocol.

        errno: ENOENT nobody has the range; EINVAL it is no whole one, or its mapping
        refuses huge pages; ENOMEM no free huge page; EAGAIN, EBUSY a page is held;
        ESRCH the process has ended; EOPNOTSUPP it stayed huge, as shared ones do;
        EXDEV its cpuset or memory policy forbids the node that it would be on: the
        kernel asks neither (hpage_collapse_find_target_node() in mm/khugepaged.c).
        """
        code = np.full(len(page), errno.ENOENT, np.int16)
        cost_ns = np.zeros(len(page))
        pid, vpage = self._machine.space_map.locate(page)
        for i in range(len(page)):
            target = self._machine.follower.targets.get(int(pid[i]))
            if target is None:
                continue
            if int(vpage[i]) % GRANULE:
                code[i] = errno.EINVAL
                continue
            began = time.perf_counter_ns()
            at = vpage[i : i + 1].astype(np.int64)
            if huge[i] and not self._may_gather(target, int(page[i]), int(at[0])):
                code[i] = FORBIDDEN
            elif huge[i]:
                code[i] = advice.collapse(target.process, at // GRANULE)[0]
            else:
                code[i] = _split(target.process, int(at[0]))
            cost_ns[i] = time.perf_counter_ns() - began
        done = page[code == 0].astype(np.int64)
        if len(done):
            self._machine.reread(np.stack([done, done + GRANULE], axis=1))
        return ResizeResult(code, cost_ns)

    def _may_gather(self, target: Target, page: int, vpage: int) -> bool:
        """Return whether a range may be on the nodes that have most of its pages.

        The kernel puts a huge page on one of those (hpage_collapse_find_target_node()).
        """
        node = self._machine.placement()[page : page + GRANULE]
        held = np.bincount(node[node != NOT_PRESENT], minlength=1)
        most = np.flatnonzero(held == held.max()).astype(np.uint8)
        fine = target.allows(np.full(len(most), vpage, np.uint64), most)
        return bool(held.max() == 0 or fine.all())

    def _read_eligible(self) -> None:
        now_ns = self.clock.now_ns()
        if (
            self._eligible_ns >= 0
            and now_ns - self._eligible_ns < ELIGIBLE_S * NS_PER_S
        ):
            return
        self._eligible_ns = now_ns
        self._eligible = {}
        if self._khugepaged.pages_per_s == 0:
            return
        for pid, target in list(self._machine.follower.targets.items()):
            try:
                text = target.process.read_text("smaps")
            except IsothermError as error:
                log.debug("no-smaps", pid=pid, why=error.message)
                continue
            self._eligible[pid] = parse_eligible(text)


def _huge_runs(
    process: Process,
    span: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    categories: int,
) -> NDArray[np.int64]:
    """Return runs of huge pages in the extents of a process, in virtual pages."""
    base, end, start = span
    low, high = int(start.min()), int((start + end - base).max())
    return _scan(process, low, high, categories)


def _scan(process: Process, start: int, end: int, categories: int) -> NDArray[np.int64]:
    """Return runs of virtual pages that have all categories; none of a dead process."""
    try:
        with process.held() as alive:
            if alive:
                fd = process.pagemap_fd()
                return pagemap.scan(fd, start, end, all_of=categories).regions[:, :2]
    except IsothermError as error:
        log.debug("no-pagemap", why=error.message)
    return np.empty((0, 2), np.int64)


def _mark(
    column: NDArray[np.bool_],
    runs: NDArray[np.int64],
    span: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Set the flat ranges that lie whole within runs of virtual pages.

    Args:
        column: bool[pages // 512], changed.
        runs: int64[n, 2], [start, end) in virtual pages, ascending.
        span: Base, end and first virtual page of the extents of one process.
    """
    for base, end, start in zip(*(part.tolist() for part in span), strict=True):
        first = -(-base // GRANULE)
        last = end // GRANULE
        if last <= first or len(runs) == 0:
            continue
        block = np.arange(first, last)
        low = block * GRANULE - base + start
        at = np.searchsorted(runs[:, 0], low, side="right") - 1
        inside = at >= 0
        inside &= runs[np.maximum(at, 0), 1] >= low + GRANULE
        column[first:last] |= inside


def _split(process: Process, vpage: int) -> int:
    """Make small pages of a huge one; return an errno.

    The last page is the one that the kernel then takes for cold.
    """
    last = np.array([[vpage + GRANULE - 1, vpage + GRANULE]], np.int64)
    result = process.madvise(last, syscalls.MADV_COLD)
    if result < 0:
        return -result
    if not process.alive():
        return errno.ESRCH
    still = _scan(process, vpage, vpage + GRANULE, pagemap.PAGE_IS_HUGE)
    return errno.EOPNOTSUPP if len(still) else 0

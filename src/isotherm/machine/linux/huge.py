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
from isotherm.machine.linux.intervals import normalised
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
#: Of a core, spent on that at most: the next reading waits for so much longer.
ELIGIBLE_SHARE: Final = 0.005
#: Blocks of 512 pages that are looked at in an epoch, beside those that are new.
SCANNED_BLOCKS: Final = 2048
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
        self._eligible_ns, self._eligible_after_s = -1, ELIGIBLE_S
        self._huge = np.zeros(0, np.bool_)
        self._blocks = Blocks.none()
        self._turn = 0

    @property
    def clock(self) -> Clock:
        """The machine's clock."""
        return self._machine.clock

    def placement(self) -> NDArray[np.uint8]:
        """Return the node of every flat page, as far as it is known by now."""
        return self._machine.placement()

    def huge_pages(self) -> HugePages:
        """Return which ranges are huge, and which khugepaged may collapse.

        New memory is looked at at once, and so is what was changed here; the rest in
        turn, ``SCANNED_BLOCKS`` an epoch: what others change is seen later.
        """
        n = self._machine.pages // GRANULE
        would = np.zeros(n, np.bool_)
        self._read_eligible()
        blocks = Blocks.of(*self._machine.space_map.extents())
        due = blocks.changed(self._blocks)
        turn = (blocks.block - self._turn) % max(n, 1) < SCANNED_BLOCKS
        self._turn = (self._turn + SCANNED_BLOCKS) % max(n, 1)
        huge = np.zeros(n, np.bool_)
        same = blocks.block[~due]
        huge[same] = self._huge[same]
        self._look(blocks.take(due | turn), huge)
        self._huge, self._blocks = huge, blocks
        for owner, runs in self._eligible.items():
            own = blocks.take(blocks.pid == owner)
            would[own.block] = within(runs, own.vpage)
        per_s = self._khugepaged.pages_per_s
        if per_s == 0:
            would[:] = False
        tlb = self._tlb
        return HugePages(
            huge.copy(),
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
        known = done // GRANULE < len(self._huge)
        self._huge[done[known] // GRANULE] = huge[code == 0][known]
        if len(done):
            self._machine.reread(np.stack([done, done + GRANULE], axis=1))
        return ResizeResult(code, cost_ns)

    def _look(self, blocks: "Blocks", huge: NDArray[np.bool_]) -> None:
        """Look which blocks are huge; those of a process that has gone are not."""
        categories = pagemap.PAGE_IS_PRESENT | pagemap.PAGE_IS_HUGE
        for owner in np.unique(blocks.pid).tolist():
            target = self._machine.follower.targets.get(owner)
            if target is None:
                continue
            own = blocks.take(blocks.pid == owner)
            spans = np.stack([own.vpage, own.vpage + GRANULE], axis=1)
            runs = [np.empty((0, 2), np.int64)]
            for start, end in normalised(spans).tolist():
                runs.append(_scan(target.process, start, end, categories))
            huge[own.block] = within(np.concatenate(runs), own.vpage)

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
            and now_ns - self._eligible_ns < self._eligible_after_s * NS_PER_S
        ):
            return
        self._eligible_ns = now_ns
        self._eligible = {}
        if self._khugepaged.pages_per_s == 0:
            return
        began = time.perf_counter_ns()
        for pid, target in list(self._machine.follower.targets.items()):
            try:
                text = target.process.read_text("smaps")
            except IsothermError as error:
                log.debug("no-smaps", pid=pid, why=error.message)
                continue
            self._eligible[pid] = parse_eligible(text)
        took_s = (time.perf_counter_ns() - began) / NS_PER_S
        self._eligible_after_s = max(ELIGIBLE_S, took_s / ELIGIBLE_SHARE)


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


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole ranges of 512 flat pages that are of one process, ascending, as columns.

    Attributes:
        block: Number of the range, int64[n].
        pid: Whose it is, int64[n].
        vpage: Its first virtual page, int64[n].
    """

    block: NDArray[np.int64]
    pid: NDArray[np.int64]
    vpage: NDArray[np.int64]

    @staticmethod
    def none() -> "Blocks":
        """Return none."""
        return Blocks(*(np.empty(0, np.int64) for _ in range(3)))

    @staticmethod
    def of(
        base: NDArray[np.int64],
        end: NDArray[np.int64],
        start: NDArray[np.int64],
        pid: NDArray[np.int32],
    ) -> "Blocks":
        """Return those of extents, as `SpaceMap.extents` returns them."""
        first = -(-base // GRANULE)
        count = np.maximum(end // GRANULE - first, 0)
        of = np.repeat(np.arange(len(base)), count)
        block = first[of] + np.arange(len(of)) - (np.cumsum(count) - count)[of]
        vpage = block * GRANULE - base[of] + start[of]
        order = np.argsort(block, kind="stable")
        return Blocks(block[order], pid[of][order].astype(np.int64), vpage[order])

    def take(self, rows: NDArray[np.bool_]) -> "Blocks":
        """Return some rows."""
        return Blocks(self.block[rows], self.pid[rows], self.vpage[rows])

    def changed(self, before: "Blocks") -> NDArray[np.bool_]:
        """Return which show other memory than they did before, bool[n]."""
        if not len(before.block):
            return np.ones(len(self.block), np.bool_)
        at = np.searchsorted(before.block, self.block)
        at = np.minimum(at, len(before.block) - 1)
        same = (before.block[at] == self.block) & (before.pid[at] == self.pid)
        found: NDArray[np.bool_] = ~(same & (before.vpage[at] == self.vpage))
        return found


def within(runs: NDArray[np.int64], vpage: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which ranges of 512 virtual pages lie whole within runs, bool[n].

    Args:
        runs: int64[n, 2], [start, end) in virtual pages, ascending.
        vpage: First page of each range.
    """
    if not len(runs):
        return np.zeros(len(vpage), np.bool_)
    at = np.searchsorted(runs[:, 0], vpage, side="right") - 1
    ends = runs[np.maximum(at, 0), 1] >= vpage + GRANULE
    found: NDArray[np.bool_] = (at >= 0) & ends
    return found


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

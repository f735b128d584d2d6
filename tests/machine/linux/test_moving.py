"""What is made of move_pages(2)'s answers: a kernel that is told what to say."""

import errno
from dataclasses import dataclass, field

import numpy as np

from isotherm.machine.linux.moving import FORBIDDEN, move_to, where
from isotherm.machine.linux.syscalls import NO_STATUS, MovePages


@dataclass
class Kernel:
    """A process whose pages move as mm/migrate.c would move them.

    Attributes:
        node: ``{page: node}`` of pages that are there.
        pinned: Pages that are tried and stay.
        off_list: Pages that cannot be isolated: EBUSY at once.
        shared: Pages that several processes map.
        huge: First page of the huge page that each page is part of.
        room: Pages that fit on the other node.
        whole: An errno for the whole call, 0: none.
        calls: Calls that moved, so far.
    """

    node: dict[int, int]
    pinned: set[int] = field(default_factory=set)
    off_list: set[int] = field(default_factory=set)
    shared: set[int] = field(default_factory=set)
    huge: dict[int, int] = field(default_factory=dict)
    room: int = 1 << 30
    whole: int = 0
    calls: int = 0

    def move_pages(
        self, vpage: np.ndarray, node: np.ndarray | None, flags: int = 2
    ) -> MovePages:
        """Answer as do_pages_move() and do_pages_stat() do."""
        status = np.full(len(vpage), NO_STATUS, np.int32)
        if self.whole:
            return MovePages(-self.whole, status)
        pages = vpage.tolist()
        if node is None:
            status[:] = [self.node.get(p, -errno.ENOENT) for p in pages]
            return MovePages(0, status)
        self.calls += 1
        goal = int(node[0])
        start, batch = 0, list[int]()
        taken = set[int]()

        def flush(upto: int) -> int:
            nonlocal batch
            failed = 0
            for page in batch:
                if self.room <= 0:
                    return -errno.ENOMEM
                if page in self.pinned:
                    failed += 1
                    continue
                for part in [q for q in self.node if self._head(q) == self._head(page)]:
                    self.node[part] = goal
                self.room -= 1
            batch = []
            taken.clear()
            if failed:
                return failed + len(pages) - upto
            status[start:upto] = goal
            return 0

        for i, page in enumerate(pages):
            said = self._refusal(page, taken, goal)
            if said is None:
                batch.append(page)
                taken.add(self._head(page))
                continue
            status[i] = said
            error = flush(i)
            status[i] = said
            if error:
                return MovePages(error, status)
            start = i + 1
        return MovePages(flush(len(pages)), status)

    def _head(self, page: int) -> int:
        return self.huge.get(page, page)

    def _refusal(self, page: int, taken: set[int], goal: int) -> int | None:
        if page not in self.node:
            return -errno.ENOENT
        if self.node[page] == goal:
            return goal
        if page in self.shared:
            return -errno.EACCES
        if page in self.off_list or self._head(page) in taken:
            return -errno.EBUSY
        return None


def moved(kernel: Kernel, pages: list[int], goal: int = 0) -> list[int]:
    """Move pages; return their errnos, and see that 0 says where they are."""
    code = move_to(kernel, np.array(pages, np.uint64), goal).tolist()  # type: ignore[arg-type]
    for page, errno_of in zip(pages, code, strict=True):
        assert (errno_of == 0) == (kernel.node.get(page) == goal), page
    return code


def test_all_move() -> None:
    """One call for many, and one for those that are there already."""
    kernel = Kernel(dict.fromkeys(range(5000), 1))
    assert {0} == set(moved(kernel, list(range(5000))))
    assert 2 == kernel.calls
    assert {0} == set(moved(kernel, [1, 2, 3]))


def test_refusals_are_per_page() -> None:
    """Absent, shared and unisolatable pages have their own errno; the rest moves."""
    kernel = Kernel(dict.fromkeys(range(10), 1), shared={3}, off_list={5})
    code = moved(kernel, [*range(10), 99])
    expected = [0] * 11
    expected[3], expected[5], expected[10] = errno.EACCES, errno.EBUSY, errno.ENOENT
    assert expected == code


def test_a_huge_page_is_busy_with_itself() -> None:
    """EBUSY of a page whose huge page has moved is no failure."""
    pages = list(range(512, 1536))
    kernel = Kernel(dict.fromkeys(pages, 1), huge={p: p & ~511 for p in pages})
    assert [0] * 1024 == moved(kernel, pages)
    assert 1 == kernel.calls


def test_what_was_not_tried_is_tried_again() -> None:
    """A pinned page ends a call; what lies behind goes with the next."""
    kernel = Kernel(dict.fromkeys(range(20), 1), pinned={0, 9}, off_list={4})
    code = moved(kernel, [*range(20), 77])
    assert {0: errno.EBUSY, 4: errno.EBUSY, 9: errno.EBUSY, 20: errno.ENOENT} == {
        i: c for i, c in enumerate(code) if c
    }
    assert 2 <= kernel.calls <= 4


def test_a_refusal_that_was_written_holds() -> None:
    """A call that ends early has said something of some pages before."""
    kernel = Kernel(dict.fromkeys(range(8), 1), pinned={6}, shared={1, 2})
    code = moved(kernel, list(range(8)))
    assert [0, errno.EACCES, errno.EACCES, 0, 0, 0, errno.EBUSY, 0] == code


def test_many_pinned_pages_cost_one_call() -> None:
    """They were tried together; nobody asks for each alone."""
    kernel = Kernel(dict.fromkeys(range(256), 1), pinned=set(range(16, 48)))
    code = moved(kernel, list(range(256)))
    assert [errno.EBUSY] * 32 == code[16:48]
    assert 224 == code.count(0)
    assert 1 == kernel.calls


def test_the_number_of_calls_is_bounded() -> None:
    """What is still open then may be tried another time."""
    pages = list(range(200))
    kernel = Kernel(dict.fromkeys(pages, 1), pinned=set(pages[::2]))
    kernel.off_list = set(pages[1::2])
    code = moved(kernel, pages)
    assert {errno.EBUSY, errno.EAGAIN} == set(code)
    assert kernel.calls <= 14


def test_no_room_is_enomem_for_those_that_stayed() -> None:
    """Statuses are not written: who has moved is found out."""
    kernel = Kernel(dict.fromkeys(range(30), 1), room=11)
    code = moved(kernel, [*range(30), 99])
    assert [0] * 11 + [errno.ENOMEM] * 19 + [errno.ENOENT] == code


def test_the_whole_call_may_be_refused() -> None:
    """All pages get the errno; a cpuset's EACCES is told from a shared page's."""
    for whole, expected in (
        (errno.ESRCH, errno.ESRCH),
        (errno.ENODEV, errno.ENODEV),
        (errno.EPERM, errno.EPERM),
        (errno.EACCES, FORBIDDEN),
    ):
        kernel = Kernel(dict.fromkeys(range(4), 1), whole=whole)
        assert {expected} == set(moved(kernel, list(range(4))))
    kernel = Kernel({}, whole=errno.ESRCH)
    vpage = np.arange(5000, dtype=np.uint64)
    assert {errno.ESRCH} == set(move_to(kernel, vpage, 0).tolist())  # type: ignore[arg-type]
    assert {-errno.ESRCH} == set(where(kernel, vpage).tolist())  # type: ignore[arg-type]

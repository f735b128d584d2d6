"""Huge pages of a live host: where they are, collapse, split, khugepaged."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import NotPermittedError, UnsupportedError
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux.huge import (
    Blocks,
    HugeHost,
    Khugepaged,
    TlbFacts,
    parse_eligible,
)
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.spaces import GRANULE
from isotherm.machine.linux.targets.follow import Follower
from isotherm.migration.sizes import Sizer
from isotherm.policy.sizes import SizeChanges


@pytest.fixture
def watch() -> Iterator[Callable[[int], tuple[LinuxMachine, HugeHost]]]:
    """Return a function that makes a machine of a process, and its huge pages."""
    made: list[LinuxMachine] = []

    def begin(pid: int) -> tuple[LinuxMachine, HugeHost]:
        try:
            nodes = HostNodes(compressed=False)
            made.append(LinuxMachine(Follower((pid,)), nodes))
            return made[-1], HugeHost(made[-1])
        except (NotPermittedError, UnsupportedError) as error:
            pytest.skip(f"huge pages of a live host are not to be had here: {error}")

    yield begin
    for machine in made:
        machine.close()


def anon_huge_kb(pid: int) -> int:
    """Return the memory of a process in huge pages, as smaps says."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if x.startswith("AnonHugePages:"))


def first_flat(machine: LinuxMachine, pid: int, page: int) -> int:
    """Return the flat page of a virtual one."""
    return int(machine.space_map.flat_pages(pid, np.array([page], np.uint64))[0])


def resize(host: HugeHost, first: int, *, huge: bool) -> int:
    """Change the size of one range; return its errno."""
    found = host.resize(np.array([first], np.uint32), np.array([huge]))
    return int(found.errno[0])


def small_pages(child: Any, pages: int) -> int:
    """Have a child take memory in small pages that may become huge; return where."""
    page: int = child.do(f"take({pages}, fill=False)")
    advise(child, page, pages, 15)  # MADV_NOHUGEPAGE
    child.do(f"ctypes.memset({page} << 12, 1, {pages} << 12) and None")
    advise(child, page, pages, 14)  # MADV_HUGEPAGE
    return page


def advise(child: Any, page: int, pages: int, advice: int) -> None:
    """Have a child advise the kernel about its memory."""
    where = f"ctypes.c_long({page} << 12), ctypes.c_long({pages} << 12)"
    assert 0 == child.do(f"libc.madvise({where}, {advice})")


def test_collapse_and_split_are_seen_in_smaps(
    child: Any, watch: Callable[[int], tuple[LinuxMachine, HugeHost]]
) -> None:
    """Two ranges become huge, one small again; smaps and our map agree; data stay."""
    page = small_pages(child, 3 * GRANULE)
    machine, host = watch(child.pid)
    first = first_flat(machine, child.pid, page)
    block = first // GRANULE
    before_kb = anon_huge_kb(child.pid)
    assert not host.huge_pages().huge[block : block + 3].any()
    codes = [resize(host, first + i * GRANULE, huge=True) for i in (0, 2)]
    if errno.ENOMEM in codes:
        pytest.skip("this host has no free huge page")
    assert [0, 0] == codes
    assert 4096 == anon_huge_kb(child.pid) - before_kb
    expected = [True, False, True]
    assert expected == host.huge_pages().huge[block : block + 3].tolist()
    assert 0 == resize(host, first, huge=False)
    assert 2048 == anon_huge_kb(child.pid) - before_kb
    expected = [False, False, True]
    assert expected == host.huge_pages().huge[block : block + 3].tolist()
    ones = f"ctypes.string_at({page} << 12, {3 * GRANULE} << 12).count(1)"
    assert 3 * GRANULE * PAGE_BYTES == child.do(ones)


def test_what_others_change_is_seen_in_turn(
    child: Any,
    watch: Callable[[int], tuple[LinuxMachine, HugeHost]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block an epoch is looked at again; new memory all at once."""
    monkeypatch.setattr("isotherm.machine.linux.huge.SCANNED_BLOCKS", 1)
    page = small_pages(child, 2 * GRANULE)
    machine, host = watch(child.pid)
    block = first_flat(machine, child.pid, page) // GRANULE
    assert not host.huge_pages().huge[block : block + 2].any()
    there = f"ctypes.c_long({page} << 12), ctypes.c_long({2 * GRANULE} << 12)"
    if child.do(f"libc.madvise({there}, 25)"):  # MADV_COLLAPSE
        pytest.skip("this host has no free huge page")
    epochs = machine.pages // GRANULE
    seen = [host.huge_pages().huge[block : block + 2].sum() for _ in range(epochs)]
    assert seen == sorted(seen)
    assert seen[0] <= 1
    assert 2 == seen[-1]
    other = HugeHost(machine)
    assert 2 == other.huge_pages().huge[block : block + 2].sum()


def test_blocks_are_whole_ranges_of_one_process() -> None:
    """By flat range, with the virtual page of each; part of one is none."""
    base, end = np.array([512, 2048, 2600]), np.array([1600, 2600, 4096])
    start, pid = np.array([10240, 0, 552]), np.array([7, 7, 9], np.int32)
    found = Blocks.of(base, end, start, pid)
    assert [1, 2, 4, 6, 7] == found.block.tolist()
    assert [7, 7, 7, 9, 9] == found.pid.tolist()
    assert [10240, 10752, 0, 1024, 1536] == found.vpage.tolist()
    assert found.changed(Blocks.none()).all()
    assert not found.changed(found).any()
    moved = Blocks.of(base, end, start + np.array([0, 512, 0]), pid)
    assert [False, False, True, False, False] == moved.changed(found).tolist()
    less = found.take(found.block > 2)
    assert [True, True, False, False, False] == found.changed(less).tolist()


def test_what_cannot_be_changed_says_why(
    child: Any, watch: Callable[[int], tuple[LinuxMachine, HugeHost]]
) -> None:
    """A mapping that refuses huge pages is EINVAL, one that nobody has ENOENT."""
    page = child.do(f"take({GRANULE})")
    advise(child, page, GRANULE, 15)
    machine, host = watch(child.pid)
    first = first_flat(machine, child.pid, page)
    assert errno.EINVAL == resize(host, first, huge=True)
    assert errno.ENOENT == resize(host, (1 << 31) - GRANULE, huge=True)


@pytest.mark.parametrize("of", ["cpuset", "policy"])
def test_nothing_is_gathered_where_it_must_not_be(
    child: Any, watch: Callable[[int], tuple[LinuxMachine, HugeHost]], of: str
) -> None:
    """The kernel would: it asks neither the target's cpuset nor its policies."""
    page = small_pages(child, GRANULE)
    machine, host = watch(child.pid)
    first = first_flat(machine, child.pid, page)
    target = machine.follower.targets[child.pid]
    elsewhere = frozenset({254})
    if of == "cpuset":
        target.allowed = elsewhere
    else:
        target.bound = ((page, page + GRANULE, elsewhere),)
    before_kb = anon_huge_kb(child.pid)
    assert errno.EXDEV == resize(host, first, huge=True)
    assert before_kb == anon_huge_kb(child.pid)


def test_a_sizer_learns_what_changes_cost(
    child: Any, watch: Callable[[int], tuple[LinuxMachine, HugeHost]]
) -> None:
    """The cost of the last collapse is the one expected; what was made is told."""
    page = small_pages(child, GRANULE)
    machine, host = watch(child.pid)
    first = first_flat(machine, child.pid, page)
    sizer = Sizer(host)
    believed = sizer.look().collapse_ns
    sizer.resize(
        SizeChanges(
            np.array([first], np.uint32),
            np.array([True]),
            np.array([1.0], np.float32),
            np.zeros(1, np.uint8),
        )
    )
    if errno.ENOMEM in sizer.totals.failed:
        pytest.skip("this host has no free huge page")
    assert [first] == sizer.done.page.tolist()
    assert 1 == sizer.totals.collapses
    assert believed != sizer.look().collapse_ns
    assert sizer.totals.collapse_ns == pytest.approx(sizer.look().collapse_ns)


def test_the_pace_of_khugepaged_is_read(tmp_path: Path) -> None:
    """Pages over sleep; none where huge pages are off; a clear word without them."""
    thp = tmp_path / "sys/kernel/mm/transparent_hugepage"
    (thp / "khugepaged").mkdir(parents=True)
    (thp / "khugepaged/pages_to_scan").write_text("4096\n")
    (thp / "khugepaged/scan_sleep_millisecs").write_text("10000\n")
    (thp / "enabled").write_text("always [madvise] never\n")
    assert Khugepaged(409.6) == Khugepaged.read(tmp_path)
    (thp / "enabled").write_text("always madvise [never]\n")
    assert Khugepaged(0.0) == Khugepaged.read(tmp_path)
    with pytest.raises(UnsupportedError, match="no transparent huge pages"):
        Khugepaged.read(tmp_path / "sys")


def test_eligible_mappings_are_those_that_say_so() -> None:
    """``THPeligible: 1`` counts for the mapping whose lines it stands in."""
    smaps = (
        "7f0000000000-7f0000400000 rw-p 00000000 00:00 0\n"
        "Size:               4096 kB\nTHPeligible:           1\n"
        "7f0000400000-7f0000800000 rw-p 00000000 00:00 0 [anon: a-b]\n"
        "THPeligible:           0\n"
    )
    assert [[0x7F0000000, 0x7F0000400]] == parse_eligible(smaps).tolist()


def test_the_tlb_is_as_it_is_told(
    child: Any, watch: Callable[[int], tuple[LinuxMachine, HugeHost]]
) -> None:
    """Entries and walks come from the configuration; costs are beliefs at first."""
    child.do(f"take({GRANULE})")
    machine, _ = watch(child.pid)
    found = HugeHost(machine, TlbFacts(64, 20.0, 2.0)).huge_pages()
    assert (64, 20.0, 2.0) == (found.entries, found.walk_ns, found.huge_walk_ns)
    assert len(found.huge) == machine.pages // GRANULE == len(found.kernel_would)

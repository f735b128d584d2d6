"""Memory that two followed processes map: tracked once, moved once, for both."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.mappings import MappingPolicy
from tests.vm.puppet import CHILD, FAST, SLOW, Puppet, counter, flat, move, on_node

pytestmark = [
    pytest.mark.slow,
    pytest.mark.layout("two-tier"),
    pytest.mark.usefixtures("quiet_kernel", "room"),
]
PAGES = 509
BOTH = MappingPolicy(shmem=True, file=True)
OPEN = (
    "file = os.open({path!r}, os.O_RDWR); "
    "kept.append(mmap.mmap(file, {pages} << 12, mmap.MAP_SHARED))"
)
FIRST = "ctypes.addressof(ctypes.c_char.from_buffer(kept[-1])) >> 12"


@pytest.fixture
def two(start: Callable[..., subprocess.Popen[str]]) -> tuple[Puppet, Puppet]:
    """Return two processes that do as they are told."""
    return Puppet(start(CHILD)), Puppet(start(CHILD))


def mapped(puppet: Puppet, path: str) -> int:
    """Have a process map a file; return its first virtual page."""
    puppet.do(OPEN.format(path=path, pages=PAGES))
    first: int = puppet.do(FIRST)
    return first


def shared_file(puppet: Puppet, where: str, tmp_path: Path) -> str:
    """Return a file of a kind: anonymous shared memory, tmpfs, or a disk's."""
    if where == "memfd":
        puppet.do("shared = os.memfd_create('shared')")
        number = puppet.do("shared")
        puppet.do(f"os.ftruncate(shared, {PAGES} << 12)")
        return f"/proc/{puppet.pid}/fd/{number}"
    path = Path("/dev/shm/shared") if where == "tmpfs" else tmp_path / "shared"  # noqa: S108  # in the guest
    path.write_bytes(b"\1" * (PAGES << 12))
    return str(path)


def both_of(
    follow: Callable[..., LinuxMachine], two: tuple[Puppet, Puppet]
) -> LinuxMachine:
    """Return a machine that has read the mappings of both: one a refresh at least."""
    machine = follow(*(one.pid for one in two), policy=BOTH, move_all=True)
    for _ in two:
        machine.refresh()
    return machine


@pytest.mark.parametrize("where", ["memfd", "tmpfs", "file"])
def test_shared_pages_are_one(
    where: str,
    two: tuple[Puppet, Puppet],
    follow: Callable[..., LinuxMachine],
    tmp_path: Path,
) -> None:
    """Both processes' pages are the same flat pages, and a move is made once."""
    one, other = two
    path = shared_file(one, where, tmp_path)
    here, there = mapped(one, path), mapped(other, path)
    one.do(f"ctypes.memset({here} << 12, 1, {PAGES} << 12)")
    assert PAGES == other.do(f"read({there}, {PAGES})")
    machine = both_of(follow, two)
    ours = flat(machine, one.pid, here, PAGES)
    assert ours.tolist() == flat(machine, other.pid, there, PAGES).tolist()
    assert machine.shared.aliased_pages >= PAGES
    began = counter("pgmigrate_success")
    for goal in (SLOW, FAST, SLOW):
        assert {0} == set(move(machine, ours, goal))
        assert PAGES == on_node(one.pid, here, goal) == on_node(other.pid, there, goal)
        assert {goal} == set(machine.placement()[ours].tolist())
    # Three times each page, and once more where it lay on the fast node already.
    moved = counter("pgmigrate_success") - began
    assert 2 * PAGES <= moved < 4 * PAGES
    assert PAGES == other.do(f"read({there}, {PAGES})")


def test_what_only_another_has_touched_is_found_and_moved(
    two: tuple[Puppet, Puppet], follow: Callable[..., LinuxMachine], tmp_path: Path
) -> None:
    """The first to be followed maps the pages and has none of them yet."""
    one, other = two
    path = shared_file(one, "memfd", tmp_path)
    here, there = mapped(one, path), mapped(other, path)
    other.do(f"ctypes.memset({there} << 12, 1, {PAGES} << 12)")
    machine = both_of(follow, two)
    ours = flat(machine, one.pid, here, PAGES)
    machine.reread(np.array([[0, machine.pages]]))
    assert 255 not in machine.placement()[ours].tolist()
    assert {0} == set(move(machine, ours, SLOW))
    assert PAGES == on_node(other.pid, there, SLOW)


def test_the_next_takes_over(
    two: tuple[Puppet, Puppet],
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
    tmp_path: Path,
) -> None:
    """When the process that managed the pages ends, the other does."""
    one, other = two
    path = shared_file(one, "tmpfs", tmp_path)
    here, there = mapped(one, path), mapped(other, path)
    one.do(f"read({here}, {PAGES})")
    other.do(f"read({there}, {PAGES})")
    machine = both_of(follow, two)
    assert one.pid == int(
        machine.space_map.locate(flat(machine, other.pid, there, 1))[0][0]
    )
    one.end()

    def taken() -> bool:
        machine.refresh()
        pid, _ = machine.space_map.locate(flat(machine, other.pid, there, 1))
        return int(pid[0]) == other.pid

    await_true(taken, "the other manages it")
    ours = flat(machine, other.pid, there, PAGES)
    assert {0} == set(move(machine, ours, SLOW))
    assert PAGES == on_node(other.pid, there, SLOW)


def test_private_memory_stays_each_ones_own(
    two: tuple[Puppet, Puppet], follow: Callable[..., LinuxMachine]
) -> None:
    """Nothing of it is an alias, whatever else is shared."""
    one, other = two
    here, there = one.do(f"take({PAGES})"), other.do(f"take({PAGES})")
    machine = both_of(follow, two)
    both = flat(machine, one.pid, here, PAGES), flat(machine, other.pid, there, PAGES)
    assert not np.intersect1d(*both).size

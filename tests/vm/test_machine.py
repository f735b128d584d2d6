"""The live machine on a real kernel: what moves, what does not, what is refused."""

import ast
import errno
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import TargetGoneError
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.mappings import MappingPolicy
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import NO_PAGE
from isotherm.machine.linux.targets.follow import EventKind, Follower
from isotherm.machine.protocol import NOT_PRESENT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_kernel")]

FAST, SLOW = 0, 1

#: A process that does what it is told, a line of Python at a time.
CHILD = r"""
import ctypes, mmap, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def call(number, *words):
    return libc.syscall(number, *(ctypes.c_long(word) for word in words))
def bind(page, pages, mode, nodes, flags=0):  # mbind
    mask = ctypes.c_ulong(nodes)
    return call(237, page << 12, pages << 12, mode, ctypes.addressof(mask), 64, flags)
def take(pages, node=None, huge=False, fill=True):  # first virtual page
    memory = mmap.mmap(-1, (pages + 512) << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start += -start % (2 << 20)
    libc.madvise(ctypes.c_long(start), ctypes.c_long(pages << 12), 14 if huge else 15)
    if node is not None:
        assert bind(start >> 12, pages, 2, 1 << node) == 0
    if fill:
        ctypes.memset(start, 1, pages << 12)
    if node is not None:
        assert bind(start >> 12, pages, 0, 0) == 0
    return start >> 12
def read(page, pages):
    return sum(ctypes.string_at((page + i) << 12, 1)[0] for i in range(pages))
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print("None", flush=True)
"""


class Target:
    """A process under test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def do(self, line: str) -> Any:
        """Have it evaluate a line; return what came of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return ast.literal_eval(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def target(start: Callable[..., subprocess.Popen[str]]) -> Target:
    """Return a process that does what it is told."""
    return Target(start(CHILD))


@pytest.fixture
def follow() -> Iterator[Callable[..., LinuxMachine]]:
    """Return a function that makes a machine of some processes.

    However slow the guest is, it reads where all pages are.
    """
    made: list[LinuxMachine] = []

    def begin(
        *pids: int,
        policy: MappingPolicy | None = None,
        cgroups: tuple[Path, ...] = (),
        compressed: bool = False,
        move_all: bool = False,
    ) -> LinuxMachine:
        follower = Follower(pids, cgroups, policy=policy)
        nodes = HostNodes(compressed=compressed)
        made.append(
            LinuxMachine(follower, nodes, move_all=move_all, placement_budget_ns=60e9)
        )
        return made[-1]

    yield begin
    for machine in made:
        machine.close()


def flat(machine: LinuxMachine, pid: int, page: int, pages: int) -> np.ndarray:
    """Return the flat pages of a stretch of a process's memory, uint32."""
    found = machine.space_map.flat_pages(
        pid, np.arange(page, page + pages, dtype=np.uint64)
    )
    assert not (found == NO_PAGE).any()
    return found


def move(machine: LinuxMachine, page: np.ndarray, node: int) -> list[int]:
    """Move pages to a node; return their errnos."""
    return machine.move(page, np.full(len(page), node, np.uint8)).errno.tolist()


def on_node(pid: int, page: int, node: int) -> int:
    """Return the pages on a node of the mapping that holds a page: numa_maps says."""
    count = 0
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if int(line.split()[0], 16) >> 12 <= page:
            found = re.search(rf" N{node}=(\d+)", line)
            count = int(found[1]) if found else 0
    return count


def test_a_prime_number_of_pages_moves(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """Errno, our placement, numa_maps and the kernel's counter say the same."""
    page = target.do("take(4099, node=1)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 4099)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    before = counter("pgmigrate_success")
    assert {0} == set(move(machine, ours[:1009], FAST))
    assert 1009 == counter("pgmigrate_success") - before
    assert 1009 == int((machine.placement()[ours] == FAST).sum())
    assert 3090 == on_node(target.pid, page + 4000, SLOW)
    machine.reread(np.array([[0, machine.pages]]))
    assert 1009 == int((machine.placement()[ours] == FAST).sum())
    assert 4099 == target.do(f"read({page}, 4099)")


def counter(name: str) -> int:
    """Return a counter of /proc/vmstat."""
    found = re.search(
        rf"^{name} (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE
    )
    assert found is not None
    return int(found[1])


def test_a_huge_page_goes_as_a_whole(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """One page takes 511 along, and placement knows; so do all 512 asked for."""
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    page = target.do("take(2048, node=1, huge=True)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 2048)
    assert [0] == move(machine, ours[700:701], FAST)
    expected = [SLOW] * 512 + [FAST] * 512 + [SLOW] * 1024
    assert expected == machine.placement()[ours].tolist()
    assert [0] * 1024 == move(machine, ours[1024:], FAST)
    assert [SLOW] * 512 + [FAST] * 1536 == machine.placement()[ours].tolist()
    smaps = Path(f"/proc/{target.pid}/smaps").read_text()
    assert "AnonHugePages:      8192 kB" in smaps


def test_a_node_without_room_is_enomem(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """The call fails without a status: who moved is found out, the rest is ENOMEM."""
    pages = 150_000
    page = target.do(f"take({pages}, node=1)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, pages)
    machine.reread(np.array([[0, machine.pages]]))
    code = np.array(move(machine, ours, FAST))
    assert {0, errno.ENOMEM} == set(code.tolist())
    machine.reread(np.array([[0, machine.pages]]))
    node = machine.placement()[ours]
    assert ((node == FAST) == (code == 0)).all()
    assert ((node == SLOW) == (code != 0)).all()


def test_a_bound_mapping_stays_in_its_nodes(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """Bound and interleaved memory is refused elsewhere; other memory is not."""
    bound, plain = target.do("take(64, node=1)"), target.do("take(64, node=1)")
    assert 0 == target.do(f"bind({bound}, 64, 2, 2)")
    machine = follow(target.pid)
    one = flat(machine, target.pid, bound, 64)
    two = flat(machine, target.pid, plain, 64)
    both = np.concatenate([one, two])
    assert [errno.EXDEV] * 64 + [0] * 64 == move(machine, both, FAST)
    assert [SLOW] * 64 + [FAST] * 64 == machine.placement()[both].tolist()
    screened = machine.screen(both, np.full(128, FAST, np.uint8))
    assert [errno.EXDEV] * 64 + [0] * 64 == screened.tolist()


def test_a_cpuset_is_respected(
    target: Target, follow: Callable[..., LinuxMachine], cgroup: Path
) -> None:
    """Nodes that the target's cpuset leaves out are refused without a try."""
    (cgroup.parent / "cgroup.subtree_control").write_text("+cpuset")
    (cgroup / "cpuset.mems").write_text("1")
    (cgroup / "cgroup.procs").write_text(str(target.pid))
    page = target.do("take(64)")
    machine = follow(cgroups=(cgroup,))
    ours = flat(machine, target.pid, page, 64)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    assert [errno.EXDEV] * 64 == move(machine, ours, FAST)
    assert 64 == on_node(target.pid, page, SLOW)
    target.end()


def test_shared_pages_are_left_alone(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """What a fork shares is EACCES and set aside; with move_all it moves."""
    page = target.do("take(64, node=1)")
    child = target.do("os.fork() or time.sleep(1000)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 64)
    assert [errno.EACCES] * 64 == move(machine, ours, FAST)
    assert 64 == machine.unmovable_pages()["shared"]
    assert {SLOW} == set(machine.placement()[ours].tolist())
    forced = follow(target.pid, move_all=True)
    there = flat(forced, target.pid, page, 64)
    assert [0] * 64 == move(forced, there, FAST)
    assert 64 == on_node(target.pid, page, FAST)
    owners = {event.pid for event in machine.take_events()}
    assert {target.pid, child} <= owners
    os.kill(child, 9)


PIN = """
params = (ctypes.c_char * 120)(); ring = call(425, 4, ctypes.addressof(params)); \
vector = (ctypes.c_ulong * 2)({page} << 12, {pages} << 12); \
kept.append(call(427, ring, 0, ctypes.addressof(vector), 1))
""".strip()


def test_pinned_pages_are_found_out(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """Pages that a ring holds stay each time: then they are not tried any more."""
    page = target.do("take(256, node=1)")
    # The pin itself moves pages out of movable zones only: they stay on node 1.
    target.do(PIN.format(page=page + 16, pages=32))
    assert 0 == target.do("kept[-1]"), "io_uring_register"
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 256)
    held = slice(16, 48)
    code = move(machine, ours, FAST)
    assert [errno.EBUSY] * 32 == code[held]
    assert [0] * 224 == code[:16] + code[48:]
    end = time.monotonic() + 240
    while machine.unmovable_pages()["pinned"] < 32 and time.monotonic() < end:
        move(machine, ours, FAST)
    assert 32 == machine.unmovable_pages()["pinned"]
    assert [errno.EOPNOTSUPP] * 32 == move(machine, ours[held], FAST)
    assert 32 == on_node(target.pid, page, SLOW)


def test_a_broken_frame_is_no_memory(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """A poisoned page is nowhere, is not moved and does not stop the others."""
    page = target.do("take(64, node=1)")
    target.do("kept.append(signal.signal(signal.SIGBUS, lambda *_: None))")
    code = f"libc.madvise(ctypes.c_long({page + 9} << 12), ctypes.c_long(4096), 100)"
    assert 0 == target.do(code), "MADV_HWPOISON"
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 64)
    assert NOT_PRESENT == machine.placement()[ours[9]]
    moved = move(machine, ours, FAST)
    assert moved[9] in (errno.ENOENT, errno.EFAULT, 133)
    assert [0] * 63 == moved[:9] + moved[10:]
    assert NOT_PRESENT == machine.placement()[ours[9]]


def test_locked_memory_and_huge_page_pools_are_left_out(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """They are counted, and hold no pages; locked memory is managed if so told."""
    Path("/proc/sys/vm/nr_hugepages").write_text("2")
    page = target.do("take(64)")
    assert 0 == target.do(f"libc.mlock(ctypes.c_long({page} << 12), 64 << 12)")
    pool = target.do("kept.append(mmap.mmap(-1, 2 << 20, 0x40022)) or len(kept)")
    assert 2 == pool
    machine = follow(target.pid)
    found = machine.space_map.flat_pages(target.pid, np.array([page], np.uint64))
    assert [NO_PAGE] == found.tolist()
    assert 64 == machine.unmovable_pages()["mlocked"]
    assert 512 == machine.unmovable_pages()["hugetlb"]
    willing = follow(target.pid, policy=MappingPolicy(mlocked=True))
    assert [0] * 64 == move(willing, flat(willing, target.pid, page, 64), SLOW)
    Path("/proc/sys/vm/nr_hugepages").write_text("0")


def test_what_was_unmapped_or_has_ended_is_data(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """ENOENT for pages that went, ESRCH for a process; then the spaces are void."""
    page = target.do("take(1024, node=1)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 1024)
    target.do(f"libc.munmap(ctypes.c_long({page} << 12), 512 << 12)")
    code = move(machine, ours, FAST)
    assert {errno.ENOENT, errno.EFAULT} >= set(code[:512])
    assert [0] * 512 == code[512:]
    change = machine.refresh()
    assert change is not None
    assert change.holds(ours[:512]).all()
    assert not change.holds(ours[512:]).any()
    assert {NOT_PRESENT} == set(machine.placement()[ours[:512]].tolist())
    target.end()
    assert {errno.ESRCH} == set(move(machine, ours[512:], SLOW))
    change = machine.refresh()
    assert change is not None
    assert change.holds(ours[512:]).all()
    assert () == machine.spaces
    assert {errno.ENOENT} == set(move(machine, ours, SLOW))
    assert EventKind.EXITED == machine.take_events()[-1].kind


def test_a_recycled_pid_is_never_touched(
    target: Target,
    start: Callable[..., subprocess.Popen[str]],
    follow: Callable[..., LinuxMachine],
) -> None:
    """A stranger with the same number is not moved, not read and not followed."""
    page = target.do("take(64, node=1)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 64)
    held = Process(target.pid)
    target.end()
    stranger = None
    for _ in range(50):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(target.pid - 1))
        stranger = Target(start(CHILD))
        if stranger.pid == target.pid:
            break
    assert stranger is not None
    assert target.pid == stranger.pid, "the number was not given out again"
    there = stranger.do("take(64, node=1)")
    assert {errno.ESRCH} == set(move(machine, ours, FAST))
    assert 64 == on_node(stranger.pid, there, SLOW)
    with pytest.raises(TargetGoneError):
        held.mappings()
    with pytest.raises(TargetGoneError):
        held.pagemap(there, there + 1)
    machine.refresh()
    machine.refresh()
    assert () == machine.spaces
    held.close()


def test_forks_and_execs_are_followed(
    target: Target,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """A child gets spaces of its own; a new program voids the old one's."""
    target.do("take(1024)")
    machine = follow(target.pid)
    child = target.do("os.fork() or time.sleep(1000)")
    machine.refresh()
    assert {target.pid, child} == set(machine.space_map.pids())
    owners = {space.owner.rpartition(" ")[0] for space in machine.spaces}
    assert {f"pid {target.pid}", f"pid {child}"} == owners
    before = machine.space_map.ranges(target.pid)
    target.process.stdin.write("os.execv('/bin/sleep', ['sleep', '1000'])\n")  # type: ignore[union-attr]
    target.process.stdin.flush()  # type: ignore[union-attr]
    name = Path(f"/proc/{target.pid}/comm")
    await_true(lambda: name.read_text() == "sleep\n", "an exec")
    change = machine.refresh()
    assert change is not None
    old = before[:, 2].astype(np.uint32)
    assert change.holds(old).all()
    kinds = [event.kind for event in machine.take_events()]
    assert EventKind.EXEC in kinds
    os.kill(child, 9)

    def alone() -> bool:
        machine.refresh()
        return (target.pid,) == machine.space_map.pids()

    await_true(alone, "the end of the child")


def test_somebody_elses_moves_are_seen(
    target: Target,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """Placement follows what others move, within a pass, and counts it as theirs."""
    page = target.do("take(1009, node=1)")
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 1009)
    assert 0 == target.do(f"bind({page}, 1009, 2, 1, 2)"), "mbind with MPOL_MF_MOVE"

    def seen() -> bool:
        machine.refresh()
        return {FAST} == set(machine.placement()[ours].tolist())

    await_true(seen, "the pages on node 0")
    assert machine.turns.foreign >= 1009


@pytest.mark.layout("two-tier", "three-tier")
def test_topology_and_latency_are_the_kernels(
    follow: Callable[..., LinuxMachine], target: Target, tiers: list[list[int]]
) -> None:
    """Tiers as in sysfs, latencies as the firmware tables say."""
    machine = follow(target.pid)
    assert tiers == [list(tier.nodes) for tier in machine.topology.tiers]
    base = Path("/sys/devices/system/node")
    for node in machine.nodes.memory_nodes:
        text = (base / f"node{node}/access1/initiators/read_latency").read_text()
        assert float(text) == machine.latency_ns()[0, node]
    assert 0 < machine.usage().promo_pages[0]


@pytest.fixture
def zram() -> Iterator[Path]:
    """Swap on compressed memory, gone afterwards."""
    device = Path("/sys/block/zram0")
    if not device.exists():
        pytest.skip("no zram: boot with --module zram")
    (device / "disksize").write_text("128M")
    subprocess.run(["/run/vmtest/busybox", "mkswap", "/dev/zram0"], check=True)
    subprocess.run(["/run/vmtest/busybox", "swapon", "/dev/zram0"], check=True)
    yield device
    subprocess.run(["/run/vmtest/busybox", "swapoff", "/dev/zram0"], check=True)
    (device / "reset").write_text("1")


def test_compressed_swap_is_the_last_tier(
    zram: Path,
    target: Target,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """Pages go out to its node and come back to the node that is asked for."""
    page = target.do("take(509, node=1)")
    machine = follow(target.pid, compressed=True)
    swap = machine.nodes.swap_node
    assert swap is not None
    assert (swap,) == machine.topology.tiers[-1].nodes
    ours = flat(machine, target.pid, page, 509)
    before = counter("pswpout")
    # The last pages filled are on no list yet: they go at a later try.
    await_true(lambda: not any(move(machine, ours, swap)), "all pages out")
    assert 509 == counter("pswpout") - before
    assert {swap} == set(machine.placement()[ours].tolist())
    machine.reread(np.array([[0, machine.pages]]))
    assert {swap} == set(machine.placement()[ours].tolist())
    assert machine.usage().used_pages[swap] >= 509
    assert [0] * 509 == move(machine, ours, SLOW)
    assert 509 == on_node(target.pid, page, SLOW)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    assert 509 == target.do(f"read({page}, 509)")
    assert machine.latency_ns()[0, swap] > machine.latency_ns()[0, SLOW]


def test_collapse_makes_huge_pages(
    target: Target, follow: Callable[..., LinuxMachine]
) -> None:
    """COLLAPSE takes granules; a mapping that refuses huge pages says EINVAL."""
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    page, refusing = target.do("take(1024)"), target.do("take(512)")
    libc = f"libc.madvise(ctypes.c_long({page} << 12), ctypes.c_long(4 << 20), 14)"
    assert 0 == target.do(libc)
    machine = follow(target.pid)
    ours = flat(machine, target.pid, page, 1024)[[0, 512]]
    theirs = flat(machine, target.pid, refusing, 1)
    code = machine.collapse(np.concatenate([ours, theirs])).errno.tolist()
    assert [0, 0, errno.EINVAL] == code
    assert (
        "AnonHugePages:      4096 kB" in Path(f"/proc/{target.pid}/smaps").read_text()
    )
    assert 1024 == machine.cold(flat(machine, target.pid, page, 1024))

"""The live machine on any host, be it of one node: spaces, placement, errnos."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.machine.linux import pagemap
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.nodes import HostNodes
from isotherm.machine.linux.spaces import GRANULE, NO_PAGE
from isotherm.machine.linux.targets.follow import Follower
from isotherm.machine.protocol import NOT_PRESENT

NOBODY = 65534


@pytest.fixture
def watch() -> Iterator[Callable[..., LinuxMachine]]:
    """Return a function that makes a machine of some processes."""
    made: list[LinuxMachine] = []

    def begin(*pids: int, **options: Any) -> LinuxMachine:
        try:
            nodes = HostNodes(compressed=False)
            made.append(LinuxMachine(Follower(pids), nodes, **options))
        except (NotPermittedError, UnsupportedError) as error:
            pytest.skip(f"a live host is not to be had here: {error}")
        return made[-1]

    yield begin
    for machine in made:
        machine.close()


def flat(machine: LinuxMachine, pid: int, page: int, pages: int) -> np.ndarray:
    """Return the flat pages of a stretch of a process's memory, uint32."""
    vpage = np.arange(page, page + pages, dtype=np.uint64)
    found = machine.space_map.flat_pages(pid, vpage)
    assert not (found == NO_PAGE).any()
    return found


def test_spaces_align_and_say_whose_they_are(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """``pid N comm``, base and start equal modulo a huge page, ascending."""
    child.do("take(3000)")
    machine = watch(child.pid)
    assert machine.spaces
    for space in machine.spaces:
        assert space.base % GRANULE == space.start_page % GRANULE
        assert space.owner.startswith(f"pid {child.pid} ")
    base = [space.base for space in machine.spaces]
    assert sorted(base) == base
    assert machine.pages == len(machine.placement())


def test_placement_knows_what_is_there(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """Touched pages are on a node, untouched ones nowhere, until they are touched."""
    page = child.do("take(600, fill=False)")
    child.do(f"libc.madvise(ctypes.c_long({page} << 12), 600 << 12, 15) and None")
    child.do(f"ctypes.memset({page} << 12, 1, 100 << 12) and None")
    machine = watch(child.pid)
    ours = flat(machine, child.pid, page, 600)
    there = machine.placement()[ours] != NOT_PRESENT
    assert [True] * 100 + [False] * 500 == there.tolist()
    child.do(f"ctypes.memset({page} << 12, 1, 600 << 12) and None")
    machine.reread(np.array([[0, machine.pages]]))
    assert (machine.placement()[ours] != NOT_PRESENT).all()


def test_both_ways_to_placement_agree(
    child: Any, watch: Callable[..., LinuxMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By frames, and by asking move_pages(2) where frames are hidden."""
    if not pagemap.frames_visible():
        pytest.skip("frames are hidden from us: needs CAP_SYS_ADMIN")
    page = child.do("take(2000)")
    machine = watch(child.pid)
    assert machine.nodes.frames is not None
    ours = flat(machine, child.pid, page, 2000)
    by_frames = machine.placement()[ours].tolist()
    monkeypatch.setattr(machine.nodes, "frames", None)
    machine.reread(np.array([[0, machine.pages]]))
    assert by_frames == machine.placement()[ours].tolist()


def test_a_stretch_is_read_again_and_no_more(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """Ranges that begin and end within spaces are read to the page."""
    page = child.do("take(3000)")
    machine = watch(child.pid, placement_budget_ns=0)
    ours = flat(machine, child.pid, page, 3000).astype(np.int64)
    machine.reread(np.array([[0, machine.pages]]))
    before = machine.turns.pages
    machine.reread(np.array([[ours[5], ours[7]], [ours[1000], ours[1512]]]))
    assert 514 == machine.turns.pages - before


def test_turns_read_everything_in_the_end(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """With a small budget a pass takes several refreshes; then comes the next."""
    child.do("take(4000)")
    machine = watch(child.pid, placement_budget_ns=1.0)
    for _ in range(10_000):
        machine.refresh()
        if machine.turns.passes == 2:
            break
    assert 2 == machine.turns.passes
    assert machine.turns.pages >= 2 * machine.space_map.mapped_pages


def test_errnos_of_what_cannot_be(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """No such node, nobody's page, beyond the index; where it is already is fine."""
    page = child.do("take(64)")
    machine = watch(child.pid)
    ours = flat(machine, child.pid, page, 64)
    here = machine.placement()[ours]
    assert [0] * 64 == machine.move(ours, here).errno.tolist()
    absent = np.full(64, 249, np.uint8)
    assert {errno.ENODEV} == set(machine.move(ours, absent).errno.tolist())
    odd = np.array([machine.pages, NO_PAGE], np.uint32)
    found = machine.move(odd, here[:2]).errno.tolist()
    assert [errno.EFAULT] * 2 == found
    child.do(f"libc.munmap(ctypes.c_long({page} << 12), 64 << 12)")
    assert machine.refresh() is not None
    assert [errno.ENOENT] * 64 == machine.move(ours, here).errno.tolist()


def test_a_page_with_a_new_owner_is_not_entered(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """What a move found out of a page that has gone since is forgotten."""
    page = child.do("take(512)")
    machine = watch(child.pid)
    ours = flat(machine, child.pid, page, 512)
    assert {0} == set(machine.move(ours, machine.placement()[ours]).errno.tolist())
    # The move has landed, and is not entered yet, when the mapping goes.
    machine.mover.move(ours, machine.placement()[ours].copy())
    child.do(f"libc.munmap(ctypes.c_long({page} << 12), 512 << 12)")
    machine.refresh()
    assert {NOT_PRESENT} == set(machine.placement()[ours].tolist())


@pytest.mark.slow
def test_moves_run_beside_everything_else(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """A thread moves while mappings come and go; no descriptor and no page is lost."""
    page = child.do("take(1024)")
    machine = watch(child.pid, placement_budget_ns=1e6)
    ours = flat(machine, child.pid, page, 1024)
    node = machine.placement()[ours].copy()
    done = threading.Event()
    codes: set[int] = set()

    def work() -> None:
        while not done.is_set():
            codes.update(machine.move(ours, node).errno.tolist())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(30):
            gone = child.do("take(700)")
            machine.refresh()
            child.do(f"libc.munmap(ctypes.c_long({gone} << 12), 700 << 12)")
            machine.refresh()
            assert (machine.placement()[ours] == node).all()
    finally:
        done.set()
        thread.join()
    assert {0} == codes


def test_page_out_without_swap_moves_nothing(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """The kernel takes the advice; the page table tells that nothing went."""
    from isotherm.machine.linux import advice

    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        pytest.skip("this host has swap")
    page = child.do("take(64)")
    machine = watch(child.pid)
    process = machine.follower.targets[child.pid].process
    vpage = np.arange(page, page + 66, dtype=np.uint64)
    code = advice.page_out(process, vpage[:64])
    assert {errno.EAGAIN} == set(code.tolist())
    assert {0} == set(advice.bring_in(process, vpage[:64]).tolist())


def test_cold_is_advice_and_keeps_pages(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """All pages are taken in, none goes."""
    page = child.do("take(128)")
    machine = watch(child.pid)
    ours = flat(machine, child.pid, page, 128)
    assert 128 == machine.cold(ours)
    machine.reread(np.array([[0, machine.pages]]))
    assert (machine.placement()[ours] != NOT_PRESENT).all()


def test_latency_and_use_are_as_wide_as_nodes_may_be(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """One column each for every possible node; nothing is infinite."""
    machine = watch(child.pid)
    last = max(node.id for node in machine.topology.nodes)
    assert (len(machine.topology.initiators), last + 1) == machine.latency_ns().shape
    assert np.isfinite(machine.latency_ns()).all()
    assert last + 1 == len(machine.usage().capacity_pages)
    assert machine.access_rate() is None
    assert 1.0 == machine.parallelism


def test_a_closed_machine_leaves_nothing(
    child: Any, watch: Callable[..., LinuxMachine]
) -> None:
    """Every descriptor is given back."""
    names = "/proc/self/fd"
    before = len(os.listdir(names))  # noqa: PTH208  # names
    machine = watch(child.pid)
    machine.refresh()
    machine.close()
    machine.close()
    assert before == len(os.listdir(names))  # noqa: PTH208  # names


def test_a_compressed_tier_that_is_not_there_is_unsupported() -> None:
    """With the commands that make one."""
    if "zram" in Path("/proc/swaps").read_text():
        pytest.skip("this host has swap on zram")
    try:
        tiers = HostNodes().topology.tiers
    except IsothermError as error:
        pytest.skip(f"this host's topology cannot be read: {error}")
    if tiers[-1].evidence.endswith("after all memory"):
        pytest.skip("zswap is on here")
    with pytest.raises(UnsupportedError, match="zram") as caught:
        HostNodes(compressed=True)
    assert caught.value.hint is not None


def test_another_user_is_refused_in_one_message(child: Any) -> None:
    """Who may not move a process's pages is told so before anything is done."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            Follower([child.pid])
        except NotPermittedError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as told:
        assert f"pid {child.pid}: may not be looked at: EACCES" == told.read()

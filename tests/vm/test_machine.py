"""The live machine on a real kernel: where pages may go, and who sees it."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.machine.linux.machine import LinuxMachine
from tests.vm.puppet import FAST, SLOW, Puppet, counter, flat, move, on_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_kernel")]


def test_a_prime_number_of_pages_moves(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """Errno, our placement, numa_maps and the kernel's counter say the same."""
    page = puppet.do("take(4099, node=1)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 4099)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    for _ in range(20):  # compaction counts there, too
        assert {0} == set(move(machine, ours[:1009], SLOW))
        before = counter("pgmigrate_success")
        assert {0} == set(move(machine, ours[:1009], FAST))
        counted = counter("pgmigrate_success") - before
        if 1009 == counted:
            break
    assert 1009 == counted
    assert 1009 == int((machine.placement()[ours] == FAST).sum())
    assert 3090 == on_node(puppet.pid, page + 4000, SLOW)
    machine.reread(np.array([[0, machine.pages]]))
    assert 1009 == int((machine.placement()[ours] == FAST).sum())
    assert 4099 == puppet.do(f"read({page}, 4099)")


def test_a_huge_page_goes_as_a_whole(
    room: None, puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """One page takes 511 along, and placement knows; so do all 512 asked for."""
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    page = puppet.do("take(2048, node=1, huge=True)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 2048)
    assert [0] == move(machine, ours[700:701], FAST)
    expected = [SLOW] * 512 + [FAST] * 512 + [SLOW] * 1024
    assert expected == machine.placement()[ours].tolist()
    assert [0] * 1024 == move(machine, ours[1024:], FAST)
    assert [SLOW] * 512 + [FAST] * 1536 == machine.placement()[ours].tolist()
    smaps = Path(f"/proc/{puppet.pid}/smaps").read_text()
    assert "AnonHugePages:      8192 kB" in smaps


def test_a_node_without_room_is_enomem(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """The call fails without a status: who moved is found out, the rest is ENOMEM."""
    pages = 150_000
    page = puppet.do(f"take({pages}, node=1)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, pages)
    machine.reread(np.array([[0, machine.pages]]))
    code = np.array(move(machine, ours, FAST))
    assert {0, errno.ENOMEM} == set(code.tolist())
    machine.reread(np.array([[0, machine.pages]]))
    node = machine.placement()[ours]
    assert ((node == FAST) == (code == 0)).all()
    assert ((node == SLOW) == (code != 0)).all()


def test_a_bound_mapping_stays_in_its_nodes(
    puppet: Puppet, follow: Callable[..., LinuxMachine]
) -> None:
    """Bound and interleaved memory is refused elsewhere; other memory is not."""
    bound, plain = puppet.do("take(64, node=1)"), puppet.do("take(64, node=1)")
    assert 0 == puppet.do(f"bind({bound}, 64, 2, 2)")
    machine = follow(puppet.pid)
    one = flat(machine, puppet.pid, bound, 64)
    two = flat(machine, puppet.pid, plain, 64)
    both = np.concatenate([one, two])
    assert [errno.EXDEV] * 64 + [0] * 64 == move(machine, both, FAST)
    assert [SLOW] * 64 + [FAST] * 64 == machine.placement()[both].tolist()
    screened = machine.screen(both, np.full(128, FAST, np.uint8))
    assert [errno.EXDEV] * 64 + [0] * 64 == screened.tolist()


def test_a_cpuset_is_respected(
    puppet: Puppet, follow: Callable[..., LinuxMachine], cgroup: Path
) -> None:
    """Nodes that the target's cpuset leaves out are refused without a try."""
    (cgroup.parent / "cgroup.subtree_control").write_text("+cpuset")
    (cgroup / "cpuset.mems").write_text("1")
    (cgroup / "cgroup.procs").write_text(str(puppet.pid))
    page = puppet.do("take(64)")
    machine = follow(cgroups=(cgroup,))
    ours = flat(machine, puppet.pid, page, 64)
    assert {SLOW} == set(machine.placement()[ours].tolist())
    assert [errno.EXDEV] * 64 == move(machine, ours, FAST)
    assert 64 == on_node(puppet.pid, page, SLOW)
    puppet.end()


def test_somebody_elses_moves_are_seen(
    puppet: Puppet,
    follow: Callable[..., LinuxMachine],
    await_true: Callable[..., None],
) -> None:
    """Placement follows what others move, within a pass, and counts it as theirs."""
    page = puppet.do("take(1009, node=1)")
    machine = follow(puppet.pid)
    ours = flat(machine, puppet.pid, page, 1009)
    assert 0 == puppet.do(f"bind({page}, 1009, 2, 1, 2)"), "mbind with MPOL_MF_MOVE"

    def seen() -> bool:
        machine.refresh()
        return {FAST} == set(machine.placement()[ours].tolist())

    await_true(seen, "the pages on node 0")
    assert machine.turns.foreign >= 1009

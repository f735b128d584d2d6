"""Tenants of a host: members, cpusets, what the kernel charges, and refusals."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.daemon.tenant_members import (
    Found,
    find_tenants,
    read_mems,
    read_numa_stat,
)
from isotherm.daemon.tenants import MEMS_EPOCHS, LiveTenants
from isotherm.machine.protocol import Space
from isotherm.machine.sim.spec import load_machine
from isotherm.migration.ranks import rank_column
from isotherm.policy.tenant_file import parse_tenants

if TYPE_CHECKING:
    from tests.daemon.conftest import Played

TOPOLOGY = load_machine("dram-cxl").topology([1000, 4000])
FAST_BYTES = 1000 * 4096


def cgroup(root: Path, name: str, pids: tuple[int, ...] = (), mems: str = "") -> Path:
    """Make what looks like a cgroup."""
    path = root / "sys/fs/cgroup" / name
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    if mems:
        (path / "cpuset.mems.effective").write_text(f"{mems}\n")
    return path


def file_of(*entries: str):
    """Return a file of tenants."""
    return parse_tenants("\n".join(f"[[tenant]]\n{entry}" for entry in entries), "t")


def test_cgroups_are_found_by_name(tmp_path: Path) -> None:
    """Each tenant has its cgroup's directory, or none."""
    path = cgroup(tmp_path, "a/db")
    found = find_tenants(
        file_of('name = "db"\ncgroup = "a/db"', 'name = "x"\npids = 1'), tmp_path
    )
    assert (path, None) == found.cgroups
    assert (path,) == found.directories


def test_an_unknown_cgroup_is_refused(tmp_path: Path) -> None:
    """The message names file, tenant and where was looked."""
    with pytest.raises(UsageError) as error:
        find_tenants(file_of('name = "db"\ncgroup = "nowhere"'), tmp_path)
    assert error.value.message.startswith("t: tenant[0].cgroup: cgroup nowhere: found")


def test_parts_of_a_workload_are_no_processes(tmp_path: Path) -> None:
    """A file for the simulator is refused on a host."""
    with pytest.raises(UsageError, match="got parts of a workload alone"):
        find_tenants(file_of('name = "db"\nworkload = "db"'), tmp_path)


def test_a_cpuset_is_read(tmp_path: Path) -> None:
    """Ranges and lists of nodes; None where there is no cpuset, or an empty one."""
    assert frozenset({0, 2, 3}) == read_mems(cgroup(tmp_path, "a", mems="0,2-3"))
    assert read_mems(cgroup(tmp_path, "b")) is None


def test_what_the_kernel_charges_is_read(tmp_path: Path) -> None:
    """Anonymous and file memory by node; other lines are part of those or kernel's."""
    path = cgroup(tmp_path, "a")
    (path / "memory.numa_stat").write_text(
        "anon N0=4096 N1=8192\nfile N0=100 N1=0\nkernel_stack N0=7 N1=7\nshmem N0=9\n"
    )
    assert {0: 4196, 1: 8192} == read_numa_stat(path)
    assert read_numa_stat(cgroup(tmp_path, "b")) is None


def test_guarantees_above_the_tier_are_refused(tmp_path: Path) -> None:
    """Two of 60 % are more than there is, whatever one of them is called."""
    cgroup(tmp_path, "a")
    cgroup(tmp_path, "b")
    entry = 'name = "{0}"\ncgroup = "{0}"\nguarantee = "{1}"'
    size = f"{round(FAST_BYTES * 0.6)}B"
    file = file_of(entry.format("a", "60%"), entry.format("b", size))
    found = find_tenants(file, tmp_path)
    with pytest.raises(UsageError, match=r"the guarantees are 4\.7 MiB"):
        LiveTenants(found, TOPOLOGY, FAST_BYTES)


def test_a_guarantee_that_the_cpuset_forbids_is_refused(tmp_path: Path) -> None:
    """A tenant bound to the slow node cannot be guaranteed the fast one."""
    cgroup(tmp_path, "a", mems="1")
    entry = 'name = "a"\ncgroup = "a"\nguarantee = "60%"'
    found = find_tenants(file_of(entry), tmp_path)
    with pytest.raises(
        UsageError, match=r"fastest tier is node 0, and cpuset\.mems of"
    ):
        LiveTenants(found, TOPOLOGY, FAST_BYTES)
    bound = find_tenants(file_of('name = "a"\ncgroup = "a"'), tmp_path)
    tenants = LiveTenants(bound, TOPOLOGY, FAST_BYTES)
    assert frozenset({1}) == tenants.tenancy(1).tenants[0].nodes


def test_pages_follow_their_process(tmp_path: Path) -> None:
    """A process that changes its cgroup changes its tenant; of nobody: the rest."""
    one = cgroup(tmp_path, "a", (11,))
    two = cgroup(tmp_path, "b", (12,))
    found = find_tenants(
        file_of('name = "a"\ncgroup = "a"', 'name = "b"\ncgroup = "b"'), tmp_path
    )
    tenants = LiveTenants(found, TOPOLOGY, FAST_BYTES)
    spaces = (Space(0, 2, "pid 11 x"), Space(2, 2, "pid 12 y"), Space(4, 2, "pid 9"))
    assert [0, 0, 1, 1, 2, 2] == tenants.labeller.of(spaces, 6).tolist()
    (one / "cgroup.procs").write_text("")
    (two / "cgroup.procs").write_text("11\n12\n")
    tenants.read_members()
    assert [1, 1, 1, 1, 2, 2] == tenants.labeller.of(spaces, 6).tolist()


def test_processes_come_with_their_children() -> None:
    """A tenant of processes has what they fork."""
    found = Found(file_of(f'name = "me"\npids = {os.getppid()}'), (None,))
    tenants = LiveTenants(found, TOPOLOGY, FAST_BYTES)
    label = tenants.labeller.of((Space(0, 1, f"pid {os.getpid()} me"),), 1)
    assert np.array_equal([0], label)


def test_what_tenants_hold_is_pages_of_memory(tmp_path: Path) -> None:
    """By tier, in pages whatever the unit; what is in no tier is held by nobody."""
    path = cgroup(tmp_path, "a/db", (7,))
    found = Found(file_of('name = "db"\ncgroup = "a/db"'), (path,))
    tenants = LiveTenants(found, TOPOLOGY, FAST_BYTES)
    label = np.array([0, 0, 0, 1, 1], np.uint8)
    node = np.array([0, 1, 255, 0, 1], np.uint8)
    tenants._hold(label, node, rank_column(TOPOLOGY, 256).astype(np.int64), 4)
    assert [[4, 8], [4, 8]] == tenants._held.tolist()


@pytest.mark.slow
def test_a_cpuset_is_followed(tmp_path: Path, playing: Callable[..., "Played"]) -> None:
    """What it forbids meanwhile the terms forbid, and allow when it does again."""
    path = cgroup(tmp_path, "a", mems="0-1")
    found = find_tenants(
        file_of('name = "a"\ncgroup = "a"\nguarantee = "50%"'), tmp_path
    )
    tenants = LiveTenants(found, TOPOLOGY, FAST_BYTES)
    played = playing(tenants=tenants)

    def allowed(mems: str) -> tuple[frozenset[int] | None, str]:
        (path / "cpuset.mems.effective").write_text(f"{mems}\n")
        until = played.service.epochs + MEMS_EPOCHS + 1
        while played.service.epochs < until:
            played.service.run(played.wait, 1.0)
        market = played.service.gate.inner.tenants
        (tenant,) = market._tenancy.tenants
        assert tenants.tenancy(1).tenants[0].nodes == tenant.nodes
        return tenant.nodes, str(tenant.guarantee)

    assert (frozenset({0, 1}), "50%") == allowed("0-1")
    assert (frozenset({1}), "0%") == allowed("1")
    assert (frozenset({0, 1}), "50%") == allowed("0-1")

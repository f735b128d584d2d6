"""--mover kernel on a tree like sysfs: what is set, read and put back."""

import dataclasses

import pytest

from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.daemon.config import KernelConfig
from isotherm.daemon.damos import KIND, MOST_REGIONS, system_ram
from isotherm.daemon.kernel_mover import KernelMover, Steered
from isotherm.machine.sim.spec import load_machine

FILES = {
    "proc/sys/kernel/numa_balancing": "1\n",
    "proc/sys/kernel/numa_balancing_promote_rate_limit_MBps": "65536\n",
    "sys/kernel/mm/numa/demotion_enabled": "false\n",
    "proc/vmstat": "pgpromote_success 10\npgdemote_kswapd 3\nnr_free_pages 9\n",
    "proc/iomem": (
        "00001000-0009fbff : System RAM\n"
        "  00001000-00001fff : something below\n"
        "00100000-3fffffff : System RAM\n"
        "40000000-7fffffff : System RAM\n"
    ),
}
DAMON = "sys/kernel/mm/damon/admin/kdamonds"
CONTEXT = f"{DAMON}/0/contexts/0"
SCHEME_FILES = (
    "action",
    "target_nid",
    *(
        f"access_pattern/{n}/{m}"
        for n in ("sz", "nr_accesses", "age")
        for m in ("min", "max")
    ),
    *(f"quotas/{n}" for n in ("ms", "bytes", "reset_interval_ms")),
    "quotas/goals/nr_goals",
    *(f"quotas/goals/0/{n}" for n in ("target_metric", "target_value", "nid")),
    *(f"filters/{n}" for n in ("nr_filters", "0/type", "0/matching", "0/memcg_path")),
    *(f"filters/1/{n}" for n in ("type", "matching", "memcg_path")),
    *(f"stats/{n}" for n in ("nr_tried", "sz_tried", "nr_applied", "sz_applied")),
)


@pytest.fixture
def root(tmp_path):
    """Return a tree with the kernel's own movers, off."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def damon(root):
    """Add DAMON's tree as it is once a kdamond with two schemes was made."""
    names = [f"{DAMON}/nr_kdamonds", f"{DAMON}/0/state", f"{CONTEXT}/operations"]
    names += [f"{DAMON}/0/contexts/nr_contexts"]
    names += [f"{CONTEXT}/monitoring_attrs/nr_regions/max"]
    names += [
        f"{CONTEXT}/monitoring_attrs/intervals/{n}"
        for n in ("sample_us", "aggr_us", "update_us")
    ]
    names += [f"{CONTEXT}/targets/{n}" for n in ("nr_targets", "0/pid_target")]
    names += [f"{CONTEXT}/targets/0/regions/nr_regions"]
    names += [
        f"{CONTEXT}/targets/0/regions/{i}/{n}" for i in (0, 1) for n in ("start", "end")
    ]
    names += [f"{CONTEXT}/schemes/nr_schemes"]
    names += [f"{CONTEXT}/schemes/{i}/{n}" for i in (0, 1) for n in SCHEME_FILES]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0\n")
    return root


def mover(root, *, use="auto", cgroup=None, pids=(42,), host_wide=False, dry_run=False):
    """Return a mover over a tree, and its changes."""
    topology = load_machine("dram-cxl").topology([100, 400])
    changes = HostChanges(None)
    steered = Steered(lambda: pids, cgroup, 150.0)
    config = KernelConfig(use=use, host_wide=host_wide)
    kernel = KernelMover(topology, steered, config, changes, root, dry_run=dry_run)
    return kernel, changes


def read(root, name):
    """Return what a file says."""
    return (root / name).read_text().strip()


def test_hint_faults_promote_within_the_limit(root):
    """Mode 2, the limit, demotion at reclaim; all of it back afterwards."""
    kernel, changes = mover(root)
    kernel.start(0)
    assert ["2", "150", "true"] == [read(root, name) for name in list(FILES)[:3]]
    (root / "proc/vmstat").write_text("pgpromote_success 25\npgdemote_kswapd 5\n")
    result = kernel.result(7.0)
    assert ("numa-balancing", 15, 2) == (
        result["way"],
        result["promoted_pages"],
        result["demoted_pages"],
    )
    assert 3 == len(changes.restore())
    assert list(FILES.values())[:3] == [(root / n).read_text() for n in list(FILES)[:3]]


def test_a_kernel_without_them_is_told(root):
    """Neither hint faults nor DAMON: exit code 3."""
    (root / "proc/sys/kernel/numa_balancing").unlink()
    kernel, _ = mover(root)
    with pytest.raises(UnsupportedError, match="kdamonds: not in this kernel"):
        kernel.start(0)
    kernel, _ = mover(root, use="numa-balancing")
    with pytest.raises(UnsupportedError, match="CONFIG_NUMA_BALANCING"):
        kernel.start(0)
    with pytest.raises(UsageError, match=r"kernel\.use: expected auto"):
        mover(root, use="magic")


def test_schemes_are_written_as_asked(damon):
    """Two schemes with quotas, nodes and goals, on the processes' memory."""
    kernel, changes = mover(damon, use="damon")
    kernel.start(0)
    up, down = f"{CONTEXT}/schemes/0", f"{CONTEXT}/schemes/1"
    assert "vaddr" == read(damon, f"{CONTEXT}/operations")
    assert "42" == read(damon, f"{CONTEXT}/targets/0/pid_target")
    assert ["migrate_hot", "0", "1", "20"] == [
        read(damon, f"{up}/{name}")
        for name in (
            "action",
            "target_nid",
            "access_pattern/nr_accesses/min",
            "access_pattern/nr_accesses/max",
        )
    ]
    assert ["migrate_cold", "1", "0", str(150 << 20)] == [
        read(damon, f"{down}/{name}")
        for name in (
            "action",
            "target_nid",
            "access_pattern/nr_accesses/max",
            "quotas/bytes",
        )
    ]
    assert ["node_mem_used_bp", "9900"] == [
        read(damon, f"{up}/quotas/goals/0/{n}")
        for n in ("target_metric", "target_value")
    ]
    assert "on" == read(damon, f"{DAMON}/0/state")
    assert [f"{damon}/{DAMON}/0: turned off and removed"] == changes.restore(KIND)
    assert "0" == read(damon, f"{DAMON}/nr_kdamonds")


def applies_nothing(root, kernel):
    """Have the schemes try and never apply."""
    for scheme in (0, 1):
        (root / f"{CONTEXT}/schemes/{scheme}/stats/nr_tried").write_text("500\n")
    (root / f"{DAMON}/0/state").write_text("on\n")
    # The tree does not answer commands: keep it on whatever is written.
    kernel._schemes.is_on = lambda: True


def test_schemes_that_apply_nothing_end_the_run(damon):
    """What would move strangers' memory is not tried without a word."""
    kernel, changes = mover(damon, use="damon")
    kernel.start(0)
    applies_nothing(damon, kernel)
    with pytest.raises(UnsupportedError, match="1000 regions tried") as error:
        kernel.epoch(11 * 10**9)
    assert "kernel.host_wide = true" in str(error.value.hint)
    assert "vaddr" == read(damon, f"{CONTEXT}/operations")
    changes.restore()
    assert "0" == read(damon, f"{DAMON}/nr_kdamonds")


def test_one_tier_is_refused(root):
    """With nothing below the first tier there is nothing for the kernel to move."""
    topology = load_machine("dram-cxl").topology([100, 400])
    topology = dataclasses.replace(topology, tiers=topology.tiers[:1])
    steered = Steered(lambda: (42,), None, 150.0)
    with pytest.raises(UnsupportedError, match="one memory tier"):
        KernelMover(topology, steered, KernelConfig(), HostChanges(None), root)


def test_a_dry_run_says_what_it_would_write(damon):
    """Every file with what it says now and would say; none is written."""
    (damon / next(iter(FILES))).write_text("0\n")
    before = {path: path.read_text() for path in damon.rglob("*") if path.is_file()}
    kernel, changes = mover(damon, dry_run=True)
    kernel.start(0)
    kernel.epoch(20 * 10**9)
    assert [
        ("/sys/kernel/mm/numa/demotion_enabled", "false", "true"),
        ("/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps", "65536", "150"),
        ("/proc/sys/kernel/numa_balancing", "0", "2"),
    ] == [tuple(what.values()) for what in kernel.result(1.0)["would_write"]]
    kernel, _ = mover(damon, use="damon", dry_run=True)
    kernel.start(0)
    assert (
        "migrate_hot to node 0, migrate_cold to node 1, of pid 42 by vaddr"
        == kernel.result(1.0)["would_write"][-1]["new"]
    )
    after = {path: path.read_text() for path in damon.rglob("*") if path.is_file()}
    assert before == after
    assert 0 == changes.pending


def test_a_kdamond_killed_before_its_mark_is_removed(damon):
    """Off, alone and with nothing in it: it is the one that the journal tells of."""
    changes = HostChanges(None)
    changes.made(KIND, top=str(damon / DAMON))
    (damon / f"{DAMON}/nr_kdamonds").write_text("1\n")
    (damon / f"{DAMON}/0/state").write_text("off\n")
    mark = damon / f"{CONTEXT}/monitoring_attrs/nr_regions/max"
    mark.write_text("1000\n")
    (damon / f"{CONTEXT}/schemes/nr_schemes").write_text("1\n")
    said = f"{damon}/{DAMON}/0: is somebody else's now, left alone"
    assert [said] == changes.restore(KIND)
    changes.made(KIND, top=str(damon / DAMON))
    (damon / f"{CONTEXT}/schemes/nr_schemes").write_text("0\n")
    assert [f"{damon}/{DAMON}/0: turned off and removed"] == changes.restore(KIND)
    assert "0" == read(damon, f"{DAMON}/nr_kdamonds")


def test_schemes_go_to_physical_memory_where_that_is_allowed(damon):
    """Tried and never applied for ten seconds: the next way is tried, and told."""
    kernel, _ = mover(damon, use="damon", host_wide=True)
    kernel.start(0)
    applies_nothing(damon, kernel)
    kernel.epoch(9 * 10**9)
    assert "vaddr" == kernel.result(9.0)["operations"]
    kernel.epoch(11 * 10**9)
    result = kernel.result(11.0)
    assert "paddr" == result["operations"]
    assert ["schemes-apply-nothing", "host-wide"] == [
        event["event"] for event in result["events"]
    ]
    assert "2" == read(damon, f"{CONTEXT}/targets/0/regions/nr_regions")
    assert str(0x80000000) == read(damon, f"{CONTEXT}/targets/0/regions/1/end")


def test_a_cgroup_is_a_filter_on_physical_memory(damon):
    """Of a cgroup only its own pages are moved."""
    kernel, _ = mover(damon, use="damon", cgroup="/db.service")
    kernel.start(0)
    filters = f"{CONTEXT}/schemes/0/filters"
    assert "paddr" == read(damon, f"{CONTEXT}/operations")
    assert ["memcg", "/db.service", "N", "young", "N"] == [
        read(damon, f"{filters}/{name}")
        for name in ("0/type", "0/memcg_path", "0/matching", "1/type", "1/matching")
    ]
    assert [] == kernel.events


def test_a_damon_that_is_taken_is_refused(damon):
    """Kdamonds of somebody else are never touched."""
    (damon / f"{DAMON}/nr_kdamonds").write_text("1\n")
    kernel, changes = mover(damon, use="damon")
    with pytest.raises(UnsupportedError, match="1 kdamonds are set up by somebody"):
        kernel.start(0)
    changes.restore()
    assert "1" == read(damon, f"{DAMON}/nr_kdamonds")


def test_a_kdamond_that_is_not_ours_any_more_is_left_alone(damon):
    """Recovery after a kill looks for our mark first."""
    kernel, changes = mover(damon, use="damon")
    kernel.start(0)
    mark = damon / f"{CONTEXT}/monitoring_attrs/nr_regions/max"
    assert str(MOST_REGIONS) == mark.read_text().strip()
    mark.write_text("1000\n")
    assert [
        f"{damon}/{DAMON}/0: is somebody else's now, left alone"
    ] == changes.restore(KIND)
    assert "on" == read(damon, f"{DAMON}/0/state")


def test_ram_is_read_from_iomem(root):
    """Top-level ranges only; neighbours are one."""
    assert [(0x1000, 0x9FC00), (0x100000, 0x80000000)] == system_ram(
        root / "proc/iomem"
    )

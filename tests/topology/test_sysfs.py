"""Reading machines: figures come through, and what is broken is never a number."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from isotherm.core.errors import TopologyError
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    InitiatorKind,
    MemoryKind,
    Source,
    Topology,
)
from isotherm.topology.sysfs import read_topology
from isotherm.topology.tiers import derive_tiers
from isotherm.topology.tree import Link

NODES = "sys/devices/system/node"


def tiers(topology: Topology) -> list[tuple[int, int | None, tuple[int, ...]]]:
    """Return the tiers without words."""
    return [(tier.id, tier.adistance, tier.nodes) for tier in topology.tiers]


def said(value: float) -> Figure:
    """Return a figure of the firmware."""
    return Figure(value, Source.FIRMWARE)


def test_two_tiers_with_figures(dram_cxl) -> None:
    """DRAM and CXL: kinds, capacity, figures and the kernel's tier numbers."""
    topology = dram_cxl().read()
    assert [MemoryKind.DRAM, MemoryKind.CXL] == [node.kind for node in topology.nodes]
    assert [16 << 30, 64 << 30] == [node.capacity_bytes for node in topology.nodes]
    assert [(0, 1, 2, 3), ()] == [node.cpus for node in topology.nodes]
    assert [(4, 576, (0,)), (46, 6000, (1,))] == tiers(topology)
    assert [Source.FIRMWARE] * 2 == [tier.source for tier in topology.tiers]
    assert [(InitiatorKind.CPU, 0, "cpu0")] == [
        (i.kind, i.node, i.name) for i in topology.initiators
    ]
    cxl = AccessPerformance(0, 1, said(250), said(250), said(30720), said(30720))
    assert cxl == topology.performance_of(0, 1)
    assert {0: {0: 10, 1: 20}, 1: {0: 20, 1: 10}} == topology.distances
    assert () == topology.notes


def test_three_tiers(hbm_dram_pmem) -> None:
    """HBM by its bandwidth, persistent memory by its bus, tiers by both figures."""
    topology = hbm_dram_pmem().read()
    kinds = [MemoryKind.DRAM, MemoryKind.HBM, MemoryKind.PMEM]
    assert kinds == [node.kind for node in topology.nodes]
    assert [(0, 86, (1,)), (4, 576, (0,)), (78, 10080, (2,))] == tiers(topology)
    assert [(1, "dax0.0"), (2, "dax1.0")] == [
        (node.id, node.label) for node in topology.nodes if node.label
    ]


@pytest.mark.parametrize("mode", ["directory", "w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "machine/", "/", "./"])
def test_all_containers_read_alike(
    tmp_path: Path, dram_cxl, mode: str, prefix: str
) -> None:
    """A directory and a tar of any compression give the same machine."""
    machine = dram_cxl()
    if mode == "directory":
        root = machine.write(tmp_path / "root" / prefix.strip("/"))
        root = tmp_path / "root"
    else:
        root = machine.tar(tmp_path / "machine.tar", mode, prefix)
    assert machine.read() == read_topology(root)


def test_the_kernels_tiers_win(dram_cxl) -> None:
    """Where the tree has memory_tiering, its grouping and numbers are taken."""
    topology = dram_cxl().tier(4, "0").tier(46, "1").read()
    assert [(4, 576, (0,)), (46, 6000, (1,))] == tiers(topology)
    assert ["the kernel's memory_tier4", "the kernel's memory_tier46"] == [
        tier.evidence for tier in topology.tiers
    ]
    assert () == topology.notes


def test_a_kernel_that_ignores_the_figures_is_noted(dram_cxl) -> None:
    """One tier for DRAM and CXL, as Linux 6.1 has it, stays, with a note."""
    topology = dram_cxl().tier(4, "0-1").read()
    assert [(4, None, (0, 1))] == tiers(topology)
    assert "the kernel has {0-1}, firmware's figures say {0} > {1}" in topology.notes[0]


def test_a_kernel_tier_of_two_kinds_is_noted(dram_cxl) -> None:
    """Without figures, DRAM and CXL in one tier are still worth a word."""
    machine = dram_cxl().tier(4, "0-1")
    for path in [p for p in machine.entries if "access1" in p]:
        del machine.entries[path]
    topology = machine.read()
    assert [(4, None, (0, 1))] == tiers(topology)
    assert "memory_tier4 holds cxl and dram alike" in topology.notes[0]


def test_a_tier_without_a_list_is_noted(dram_cxl) -> None:
    """A tier whose nodes cannot be read makes the kernel's tiers incomplete."""
    machine = dram_cxl().tier(4, "0")
    machine.put("sys/devices/virtual/memory_tiering/memory_tier46/uevent", "")
    topology = machine.read()
    assert [(4, 576, (0,)), (46, 6000, (1,))] == tiers(topology)
    assert "memory_tier46/nodelist: found nothing" in topology.notes[0]


@pytest.mark.parametrize("nodes", ["0", "0-2", "x", ""])
def test_half_read_tiers_of_the_kernel_are_not_used(dram_cxl, nodes: str) -> None:
    """A kernel's tier that lacks a node or names another gives derived tiers."""
    topology = dram_cxl().tier(4, nodes).read()
    assert [(4, 576, (0,)), (46, 6000, (1,))] == tiers(topology)
    assert "memory_tiering" in " ".join(topology.notes) or nodes == ""


def test_access1_goes_before_access0(dram_cxl) -> None:
    """Figures of the CPUs are taken even where a generic initiator is nearer."""
    machine = dram_cxl().access(1, 7, (10, 10, 900000, 900000), kind="access0")
    row = machine.read().performance_of(0, 1)
    assert said(250) == row.read_latency_ns
    assert 2 == len(machine.read().performance)


def test_access0_stands_in_for_access1(new_machine) -> None:
    """Kernels before 5.10 have access0 only."""
    machine = new_machine().lists("0", "0", "0")
    machine.node(0, mem_kib=1024, cpus="0", distance="10")
    machine.access(0, 0, (80, 90, 100, 200), kind="access0")
    row = AccessPerformance(0, 0, said(80), said(90), said(100), said(200))
    assert (row,) == machine.read().performance


def test_a_generic_initiator_without_a_name_is_left_out(dram_cxl) -> None:
    """Figures for a node that is neither CPU nor GPU are nobody's row."""
    machine = dram_cxl()
    for path in [p for p in machine.entries if "node1/access1" in p]:
        del machine.entries[path]
    machine.access(1, 1, (10, 10, 900000, 900000), kind="access0")
    topology = machine.read()
    assert topology.performance_of(0, 1) is None
    assert "an initiator of node 1 without CPUs" in topology.notes[0]


def test_a_cxl_node_without_figures(dram_cxl) -> None:
    """Newer kernels show no figures for a CXL node: 5 times DRAM is assumed."""
    machine = dram_cxl()
    for path in [p for p in machine.entries if "node1/access1" in p]:
        del machine.entries[path]
    topology = machine.read()
    assert [(4, 576, (0,)), (22, 2880, (1,))] == tiers(topology)
    sources = [Source.FIRMWARE, Source.ASSUMED]
    assert sources == [tier.source for tier in topology.tiers]


def test_zero_is_unknown(dram_cxl) -> None:
    """Firmware that gives 0 for latency gives none; bandwidth alone then ranks."""
    machine = dram_cxl()
    machine.access(0, 0, (0, 0, 1000, 1000)).access(1, 0, (0, 0, 100, 100))
    topology = machine.read()
    assert topology.performance_of(0, 1).read_latency_ns is None
    assert [(4, None, (0,)), (45, None, (1,))] == tiers(topology)
    assert (
        "read_latency_ns: 0 or absent for nodes 0, 1, taken as unknown"
        in topology.notes
    )


@pytest.mark.parametrize("text", ["-80", "8e1", "fast", "99999999999", "80 ns", "\xff"])
def test_a_broken_figure_is_unknown(dram_cxl, text: str) -> None:
    """What is no plain number within reason is no figure, and is noted."""
    machine = dram_cxl()
    path = f"{NODES}/node1/access1/initiators/read_latency"
    machine.put(path, text)
    topology = machine.read()
    assert topology.performance_of(0, 1).read_latency_ns is None
    assert any(note.startswith(path) for note in topology.notes)


def test_half_of_a_machine(dram_cxl) -> None:
    """Missing and broken files make unknowns with notes, not numbers."""
    machine = dram_cxl()
    machine.put(f"{NODES}/node0/meminfo", "Node 0 MemTotal: lots kB")
    del machine.entries[f"{NODES}/node1/meminfo"]
    machine.put(f"{NODES}/node0/distance", "10 20 30")
    machine.put(f"{NODES}/node1/distance", "20")
    machine.put(f"{NODES}/has_memory", "everything")
    topology = machine.read()
    assert [None, None] == [node.capacity_bytes for node in topology.nodes]
    assert {} == topology.distances
    assert [(4, 576, (0,)), (46, 6000, (1,))] == tiers(topology)
    assert 5 == len(topology.notes)


def test_a_node_without_a_directory(new_machine) -> None:
    """A node that is online and has no directory is there, and all unknown."""
    machine = new_machine().put(f"{NODES}/online", "0-1")
    machine.node(0, mem_kib=1024, cpus="0", distance="10 20")
    topology = machine.read()
    node = topology.nodes[1]
    assert (None, MemoryKind.UNKNOWN) == (node.capacity_bytes, node.kind)
    assert any(note.startswith(f"{NODES}/node1: ") for note in topology.notes)


def test_a_node_without_memory_is_in_no_tier(new_machine) -> None:
    """CPUs alone make an initiator, not a tier."""
    machine = new_machine().lists("0-1", "0", "0-1")
    machine.node(0, mem_kib=1024, cpus="0", distance="10 20")
    machine.node(1, mem_kib=0, cpus="1", distance="20 10")
    topology = machine.read()
    assert [(4, 576, (0,))] == tiers(topology)
    assert [0, 1] == [initiator.node for initiator in topology.initiators]
    assert 0 == topology.nodes[1].capacity_bytes
    with pytest.raises(KeyError):
        topology.tier_of(1)


def test_lists_that_contradict_the_nodes_are_noted(dram_cxl) -> None:
    """has_memory against meminfo, has_cpu against cpulist: both are told."""
    machine = dram_cxl().lists("0-1", "0", "0-1")
    notes = " ".join(machine.read().notes)
    assert "expected none, as has_memory leaves the node out" in notes
    assert "node1/cpulist: found no CPUs" in notes


def test_a_cpu_on_two_nodes_is_noted(dram_cxl) -> None:
    """A CPU belongs to one node; two claims are told."""
    topology = dram_cxl().put(f"{NODES}/node1/cpulist", "3-4").read()
    assert "CPU 3, also on node 0" in " ".join(topology.notes)


def test_the_mask_stands_in_for_the_list(new_machine) -> None:
    """Without cpulist the mask tells the CPUs."""
    machine = new_machine().lists("0", "0", "0")
    machine.node(0, mem_kib=1024, distance="10")
    del machine.entries[f"{NODES}/node0/cpulist"]
    machine.put(f"{NODES}/node0/cpumap", "00000001,00000003\n")
    assert (0, 1, 32) == machine.read().nodes[0].cpus


@pytest.mark.parametrize("online", ["", "0-", "1-0", "0-5000", "none", "0-1\n0-1"])
def test_a_broken_list_of_nodes_is_an_error(dram_cxl, online: str) -> None:
    """Which nodes there are is never guessed past a broken list."""
    machine = dram_cxl().put(f"{NODES}/online", online)
    with pytest.raises(TopologyError, match=f"made: {NODES}/online: found .*expected"):
        machine.read()


def test_without_the_list_the_directories_tell(dram_cxl) -> None:
    """A tree without the list of nodes is read by its directories, with a note."""
    machine = dram_cxl()
    del machine.entries[f"{NODES}/online"]
    topology = machine.read()
    assert [0, 1] == [node.id for node in topology.nodes]
    assert "took the nodeN directories" in topology.notes[0]


def test_a_tree_without_nodes_is_an_error(tmp_path: Path) -> None:
    """An empty directory says what was looked for, and what makes a tree."""
    with pytest.raises(TopologyError, match="expected the list of NUMA nodes") as error:
        read_topology(tmp_path)
    assert "isotherm topology record" in error.value.hint


def test_a_side_cache_hides_what_is_behind_it(new_machine) -> None:
    """The largest cache counts; the memory behind it is not called DRAM."""
    machine = new_machine().lists("0", "0", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10")
    base = f"{NODES}/node0/memory_side_cache"
    machine.put(f"{base}/index1/size", "4096").put(f"{base}/index2/size", "8192")
    machine.put(f"{base}/index3/size", "big")
    topology = machine.read()
    assert 8192 == topology.nodes[0].side_cache_bytes
    assert MemoryKind.UNKNOWN == topology.nodes[0].kind
    assert [(4, 576, (0,))] == tiers(topology)
    assert "index3/size" in topology.notes[0]


def gpu_machine(new_machine, status: str):
    """Return a machine with a GPU whose numa_status is given."""
    machine = new_machine().lists("0,255", "0,255", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 80")
    machine.node(255, mem_kib=1 << 20, distance="80 10")
    return machine.put("proc/driver/nvidia/gpus/0004:05:00.0/numa_status", status)


def test_gpu_memory(new_machine) -> None:
    """A GPU's node is GPU memory, the GPU an initiator, its tier after DRAM."""
    machine = gpu_machine(new_machine, "Node:\t255\nStatus:  online\nSize: 1\n")
    machine.access(255, 255, (300, 300, 800000, 800000), kind="access0")
    topology = machine.read()
    assert (MemoryKind.GPU, Source.FIRMWARE) == (
        topology.nodes[1].kind,
        topology.nodes[1].kind_source,
    )
    gpu = topology.initiators[1]
    assert (1, InitiatorKind.GPU, 255) == (gpu.id, gpu.kind, gpu.node)
    assert said(800000) == topology.performance_of(1, 255).read_bandwidth_mib_s
    assert [(4, 576, (0,)), (22, 2880, (255,))] == tiers(topology)


@pytest.mark.parametrize("status", ["Node: 255\nStatus: offline", "Node: x", "", "\0"])
def test_a_gpu_that_does_not_give_its_node(new_machine, status: str) -> None:
    """The GPU is an initiator without a node, and its memory stays unknown."""
    topology = gpu_machine(new_machine, status).read()
    assert topology.initiators[1].node is None
    assert MemoryKind.UNKNOWN == topology.nodes[1].kind
    assert topology.notes


def test_specific_purpose_memory_is_not_guessed(new_machine) -> None:
    """Memory on the hmem bus without figures may be HBM or CXL: unknown."""
    machine = new_machine().lists("0-1", "0-1", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20")
    machine.node(1, mem_kib=1 << 20, distance="20 10")
    machine.dax("dax0.0", "platform/hmem.0", 1, 1 << 30)
    assert MemoryKind.UNKNOWN == machine.read().nodes[1].kind
    machine.put("sys/bus/cxl/devices/mem0/numa_node", "0")
    node = machine.read().nodes[1]
    assert (MemoryKind.CXL, Source.ASSUMED) == (node.kind, node.kind_source)


def test_fast_memory_without_cpus_is_hbm(new_machine) -> None:
    """Flat-mode HBM has no device, only a bandwidth that no DRAM has."""
    machine = new_machine().lists("0-1", "0-1", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20")
    machine.node(1, mem_kib=1 << 20, distance="20 10")
    machine.access(0, 0, (100, 100, 100000, 100000))
    machine.access(1, 0, (120, 120, 400000, 400000))
    topology = machine.read()
    assert MemoryKind.HBM == topology.nodes[1].kind
    assert (1,) == topology.tiers[0].nodes


def test_a_device_that_is_the_smaller_part_of_a_node(new_machine) -> None:
    """A node with CPUs keeps the kind of its larger part."""
    machine = new_machine().lists("0", "0", "0")
    machine.node(0, mem_kib=4 << 20, cpus="0", distance="10")
    machine.dax("dax0.0", "LNXSYSTM:00/ndbus0/region0/dax0.1", 0, 1 << 30)
    node = machine.read().nodes[0]
    assert (MemoryKind.DRAM, Source.ASSUMED) == (node.kind, node.kind_source)
    assert "dax0.0" in node.kind_evidence


def test_devices_that_are_no_nodes(dram_cxl) -> None:
    """Mapped devices are listed; kmem memory of a node that is offline is noted."""
    machine = dram_cxl()
    machine.dax("dax1.0", "x/ndbus0/region0/dax1.1", 5, 7 << 30, kmem=False)
    machine.dax("dax2.0", "x/ndbus0/region1/dax2.1", 6, 9 << 30)
    topology = machine.read()
    assert [
        ("dax0.0", MemoryKind.CXL, 1, "kmem"),
        ("dax1.0", MemoryKind.PMEM, 5, "device_dax"),
        ("dax2.0", MemoryKind.PMEM, 6, "kmem"),
    ] == [(d.name, d.kind, d.node, d.driver) for d in topology.devices]
    assert ["found kmem memory for node 6" in note for note in topology.notes] == [True]


def test_dax_devices_of_old_kernels(dram_cxl) -> None:
    """Before Linux 5.1 the devices are under /sys/class/dax."""
    machine = dram_cxl()
    link = machine.entries.pop("sys/bus/dax/devices/dax0.0")
    machine.entries["sys/class/dax/dax0.0"] = Link(link.target.removeprefix("../"))
    assert MemoryKind.CXL == machine.read().nodes[1].kind


def test_slow_memory_without_figures_goes_by_kind_and_distance(new_machine) -> None:
    """CXL before persistent memory, near before far, from the kernel's default on."""
    machine = new_machine().lists("0-4", "0-4", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20 20 40 40")
    for number in range(1, 5):
        machine.node(number, mem_kib=1 << 20, distance="20 20 20 20 20")
    for number, place in enumerate(
        ["ndbus0/region0", "ACPI0017:00/root0", "ACPI0017:00/root1", "ndbus0/region1"]
    ):
        machine.dax(f"dax{number}.0", f"x/{place}", number + 1, 1 << 30)
    assert [
        (4, 576, (0,)),
        (22, 2880, (2,)),
        (23, None, (3,)),
        (24, None, (1,)),
        (25, None, (4,)),
    ] == tiers(machine.read())


def test_memory_that_overflows_the_kernels_arithmetic(dram_cxl) -> None:
    """Our distance is exact, and a note says that the kernel's is not."""
    machine = dram_cxl().access(0, 0, (80, 80, 819200, 819200))
    topology = machine.access(1, 0, (800, 800, 4096, 4096)).read()
    assert [(4, 576), (9000, 1152000)] == [(t.id, t.adistance) for t in topology.tiers]
    assert (
        "node 1: the kernel's 32-bit abstract distance overflows" in topology.notes[0]
    )


def test_latency_alone_ranks(dram_cxl) -> None:
    """Without bandwidth, latency orders the tiers and no distance is claimed."""
    machine = dram_cxl().access(0, 0, (100, 0, 0, 0)).access(1, 0, (250, 90, 0, 5))
    assert [(4, None, (0,)), (11, None, (1,))] == tiers(machine.read())


def test_figures_that_share_nothing_do_not_rank(dram_cxl) -> None:
    """Latency of one and bandwidth of the other cannot be compared."""
    machine = dram_cxl().access(0, 0, (100, 100, 0, 0)).access(1, 0, (0, 0, 5, 5))
    assert [(4, None, (0,)), (22, 2880, (1,))] == tiers(machine.read())


def test_a_machine_of_cached_nodes_has_a_reference(new_machine) -> None:
    """Without a node that is surely DRAM the first one with CPUs is the measure."""
    machine = new_machine().lists("0-1", "0-1", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20")
    machine.node(1, mem_kib=1 << 20, distance="20 10")
    machine.put(f"{NODES}/node0/memory_side_cache/index1/size", "4096")
    machine.access(0, 0, (100, 100, 1000, 1000))
    machine.access(1, 0, (200, 200, 1000, 1000))
    assert [(4, 576, (0,)), (9, 1152, (1,))] == tiers(machine.read())


def test_hbm_without_figures_of_its_own_goes_before_dram(new_machine) -> None:
    """Kinds order what figures do not."""
    machine = new_machine().lists("0-2", "0-2", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20 20")
    machine.node(1, mem_kib=1 << 20, distance="20 10 20")
    machine.node(2, mem_kib=1 << 20, distance="20 20 10")
    topology = machine.read()
    hbm = replace(topology.nodes[1], kind=MemoryKind.HBM)
    nodes = (topology.nodes[0], hbm, topology.nodes[2])
    found, _ = derive_tiers(nodes, topology.initiators, (), topology.distances)
    assert [(1,), (0,), (2,)] == [tier.nodes for tier in found]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/devices/system/node/has_cpu", "x"),
        ("proc/meminfo", "lots"),
        ("sys/bus/dax/devices/dax0.0/target_node", "five"),
        ("sys/bus/dax/devices/dax0.0/target_node", "99999"),
        ("sys/bus/dax/devices/dax0.0/size", "-1"),
    ],
)
def test_a_broken_side_file_is_noted(dram_cxl, path: str, text: str) -> None:
    """Each file that is there and cannot be understood leaves a note."""
    machine = dram_cxl()
    real = machine.tree().resolve(path) or path
    topology = machine.put(real, text).read()
    name = path.rsplit("/", 1)[-1]
    assert any(f"{name}: found" in note for note in topology.notes)


def test_a_device_on_an_unknown_bus(new_machine) -> None:
    """A kmem device of no known bus names no kind."""
    machine = new_machine().lists("0-1", "0-1", "0")
    machine.node(0, mem_kib=1 << 20, cpus="0", distance="10 20")
    machine.node(1, mem_kib=1 << 20, distance="20 10")
    node = machine.dax("dax0.0", "platform/other.0", 1, 1 << 30).read().nodes[1]
    assert (MemoryKind.UNKNOWN, "dax0.0") == (node.kind, node.label)


def test_a_gpu_with_a_node_that_is_offline(new_machine) -> None:
    """A node that the driver names and the kernel lacks is told."""
    topology = gpu_machine(new_machine, "Node: 7\nStatus: online").read()
    assert topology.initiators[1].node is None
    assert ("numa_status of gpu0: found node 7, expected an online node",) == (
        topology.notes
    )


def test_this_machine_is_read() -> None:
    """The live tree gives the capacity that the zones of /proc/zoneinfo add up to."""
    zones = Path("/proc/zoneinfo")
    if not Path("/sys/devices/system/node/online").exists() or not zones.exists():
        pytest.skip("this kernel has no NUMA nodes in sysfs, or no /proc/zoneinfo")
    topology = read_topology(Path("/"))
    managed = re.findall(r"^ +managed +(\d+)$", zones.read_text(), re.MULTILINE)
    total = sum(map(int, managed)) * os.sysconf("SC_PAGE_SIZE")
    assert total == sum(node.capacity_bytes for node in topology.nodes)


def test_nodes_that_do_not_add_up_are_noted(dram_cxl) -> None:
    """/proc/meminfo far from the sum of the nodes is told; close to it is not."""
    right = dram_cxl().put("proc/meminfo", f"MemTotal: {80 << 20} kB\n").read()
    assert () == right.notes
    wrong = dram_cxl().put("proc/meminfo", f"MemTotal: {16 << 20} kB\n").read()
    found = "proc/meminfo: found 16.0 GiB, expected about the 80.0 GiB of "
    assert (found + "the nodes' meminfo",) == wrong.notes

"""Nodes that may come stand in the topology from the start; those that do are seen."""

from pathlib import Path

import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.machine.linux.nodes import HostNodes
from isotherm.topology.model import MemoryKind

NODES = "sys/devices/system/node"


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def write_host(root: Path, online: str, possible: str | None = "0-2") -> None:
    """Write a tree of a host with CPUs on node 0; each node has 4 GiB, half free."""
    base = root / NODES
    ids = [int(word) for word in online.split(",")]
    write(base / "online", online)
    write(base / "has_memory", online)
    write(base / "has_cpu", "0")
    if possible is not None:
        write(base / "possible", possible)
    for node in ids:
        at = base / f"node{node}"
        write(at / "cpulist", "0-3" if node == 0 else "")
        row = ["10" if other == node else "20" for other in ids]
        write(at / "distance", " ".join(row))
        total, free = 4 << 20, 2 << 20
        text = f"Node {node} MemTotal: {total} kB\nNode {node} MemFree: {free} kB"
        write(at / "meminfo", text)
    write(root / "proc/zoneinfo", "Node 0, zone Normal\n  pages free 1\n")
    write(root / "proc/swaps", "Filename Type Size Used Priority")


def tiers(nodes: HostNodes) -> list[tuple[int, ...]]:
    """Return the nodes of each tier."""
    return [tier.nodes for tier in nodes.topology.tiers]


def test_a_node_that_arrives_changes_no_width(tmp_path: Path) -> None:
    """It joins a tier; what is indexed by node keeps its length; then it leaves."""
    write_host(tmp_path, "0")
    nodes = HostNodes(tmp_path)
    assert not nodes.refresh()
    assert [(0,)] == tiers(nodes)
    assert [0, 1, 2] == [node.id for node in nodes.topology.nodes]
    width = len(nodes.usage().capacity_pages)
    write_host(tmp_path, "0,1")
    assert nodes.refresh()
    assert not nodes.refresh()
    assert [(0,), (1,)] == tiers(nodes)
    assert width == len(nodes.usage().capacity_pages) == nodes.latencies.ns.shape[1]
    assert [1 << 20, 1 << 20, 0] == nodes.usage().capacity_pages.tolist()
    write_host(tmp_path, "0")
    assert nodes.refresh()
    assert [(0,)] == tiers(nodes)
    assert [1 << 20, 0, 0] == nodes.usage().capacity_pages.tolist()
    assert (0,) == nodes.memory_nodes


def test_a_node_that_grows_is_read_again(tmp_path: Path) -> None:
    """Usage notices; the next refresh tells."""
    write_host(tmp_path, "0,1")
    nodes = HostNodes(tmp_path)
    nodes.usage()
    at = tmp_path / NODES / "node1/meminfo"
    at.write_text(at.read_text().replace(str(4 << 20), str(8 << 20)))
    assert not nodes.refresh()
    nodes.usage()
    assert nodes.refresh()
    assert 8 << 30 == nodes.topology.nodes[1].capacity_bytes


def test_compressed_swap_comes_after_all_possible_nodes(tmp_path: Path) -> None:
    """A last tier while there is such swap; its use is read each time."""
    write_host(tmp_path, "0,1")
    swaps = tmp_path / "proc/swaps"
    head = swaps.read_text()
    swaps.write_text(head + "/dev/zram0 partition 1048576 400 100\n")
    nodes = HostNodes(tmp_path)
    assert 3 == nodes.swap_node
    assert [(0,), (1,), (3,)] == tiers(nodes)
    assert MemoryKind.COMPRESSED is nodes.topology.nodes[3].kind
    assert (0, 1) == nodes.memory_nodes
    assert [262144, 100] == [
        int(nodes.usage().capacity_pages[3]), int(nodes.usage().used_pages[3]),
    ]  # fmt: skip
    swaps.write_text(head + "/dev/zram0 partition 1048576 800 100\n")
    assert 200 == nodes.usage().used_pages[3]
    assert not nodes.refresh()
    assert nodes.latencies.ns[0].argmax() == 3
    swaps.write_text(head)
    assert nodes.refresh()
    assert nodes.swap_node is None
    assert [(0,), (1,)] == tiers(nodes)


def test_compressed_swap_can_be_left_alone_or_wanted(tmp_path: Path) -> None:
    """Not a tier where that is said; unsupported where it is wanted and absent."""
    write_host(tmp_path, "0")
    with pytest.raises(UnsupportedError, match="zram"):
        HostNodes(tmp_path, compressed=True)
    text = "/dev/zram0 partition 1048576 400 100\n"
    (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n" + text)
    assert HostNodes(tmp_path, compressed=False).swap_node is None


@pytest.mark.parametrize("possible", [None, "0-1023", "odd"])
def test_what_may_come_may_be_unknown(tmp_path: Path, possible: str | None) -> None:
    """Then there are only the nodes that are there; a byte holds no thousand."""
    write_host(tmp_path, "0,1", possible)
    nodes = HostNodes(tmp_path)
    assert [0, 1] == [node.id for node in nodes.topology.nodes]

"""Use and watermarks of nodes, from recorded text and from this host."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.machine.linux.usage import (
    SwapArea,
    UsageReader,
    parse_node_meminfo,
    parse_swaps,
    parse_zoneinfo,
    read_compressed_swap,
)

#: Linux 6.12 with two nodes, shortened.
ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 0
      nr_free_cma  7
  pages free     3776
        boost    0
        min      173
        low      216
        high     259
        promo    302
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 443, 443, 443, 443)
      nr_free_pages 3776
  pagesets
    cpu: 0
              count: 0
              high:  11111
              batch: 1
  vm stats threshold: 4
Node 0, zone    DMA32
  pages free     105323
        min      5121
        low      6401
        high     7681
        promo    8961
        managed  115195
  pagesets
    cpu: 0
              high:  3200
Node 0, zone  Movable
  pages free     0
        min      32
        low      32
        high     32
        promo    32
        managed  0
Node 1, zone    DMA32
  pages free     254593
        min      11600
        low      14500
        high     17400
        managed  257959
"""


def test_zones_are_summed_per_node() -> None:
    """Zones without pages do not count, nor do the lists of CPUs."""
    nodes = parse_zoneinfo(ZONEINFO)
    expected = {
        "free": 109099, "min": 5294, "low": 6617, "high": 7940, "promo": 9263,
        "managed": 119035,
    }  # fmt: skip
    assert expected == nodes[0]


def test_a_kernel_without_promo_marks_promotes_at_high() -> None:
    """What the file does not say is not zero."""
    assert 17400 == parse_zoneinfo(ZONEINFO)[1]["promo"]


def test_odd_texts_say_nothing() -> None:
    """No crash, no invented numbers."""
    assert {} == parse_zoneinfo("")
    assert {} == parse_zoneinfo("Node 0, zone Normal\n  pages free 1\n")
    assert parse_node_meminfo("Node 0 MemTotal: 4 kB\n") is None


def write_tree(root: Path, nodes: dict[int, tuple[int, int]]) -> None:
    """Write the files of a host with nodes of some pages, managed and free."""
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/zoneinfo").write_text(ZONEINFO)
    for node, (total, free) in nodes.items():
        at = root / f"sys/devices/system/node/node{node}"
        at.mkdir(parents=True, exist_ok=True)
        (at / "meminfo").write_text(
            f"Node {node} MemTotal:       {total * 4} kB\n"
            f"Node {node} MemFree:        {free * 4} kB\n"
            f"Node {node} MemUsed:        {(total - free) * 4} kB\n"
        )


def test_use_is_columns_by_node(tmp_path: Path) -> None:
    """Nodes that are not there, or not counted, have nothing."""
    write_tree(tmp_path, {0: (119035, 100000), 1: (257959, 7959), 2: (5, 5)})
    reader = UsageReader(tmp_path)
    usage = reader.read((0, 1), 4, (4, SwapArea("/dev/zram0", 1000, 17)))
    assert [119035, 257959, 0, 0, 1000] == usage.capacity_pages.tolist()
    assert [19035, 250000, 0, 0, 17] == usage.used_pages.tolist()
    assert [9263, 17400, 0, 0, 0] == usage.promo_pages.tolist()
    assert np.int64 == usage.low_pages.dtype
    assert [100000, 7959, 0, 0, 983] == usage.free_pages.tolist()


def test_a_node_that_grows_is_noticed(tmp_path: Path) -> None:
    """Blocks of memory come one after another; the marks are read again."""
    write_tree(tmp_path, {0: (119035, 1), 1: (32768, 2)})
    reader = UsageReader(tmp_path)
    reader.read((0, 1), 2, None)
    assert not reader.sizes_changed
    write_tree(tmp_path, {1: (65536, 2)})
    (tmp_path / "proc/zoneinfo").write_text(ZONEINFO.replace("11600", "11000"))
    reader.read((0, 1), 2, None)
    assert reader.sizes_changed
    assert 11000 == reader.read((0, 1), 2, None).min_pages[1]
    assert not reader.sizes_changed


def test_a_host_without_zoneinfo_is_unsupported(tmp_path: Path) -> None:
    """It is said which file was looked for."""
    with pytest.raises(UnsupportedError, match="proc/zoneinfo"):
        UsageReader(tmp_path)


def test_only_swap_in_memory_is_a_tier(tmp_path: Path) -> None:
    """Memory counts, disks do not, and behind zswap all do."""
    (tmp_path / "proc").mkdir()
    assert read_compressed_swap(tmp_path) is None
    head = "Filename\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    disk = "/dev/sda2 partition\t2097148\t\t1024\t\t-2\n"
    (tmp_path / "proc/swaps").write_text(head + disk)
    assert read_compressed_swap(tmp_path) is None
    text = head + disk + "/dev/zram0 partition\t1048572\t\t8\t\t100\n"
    (tmp_path / "proc/swaps").write_text(text)
    assert SwapArea("/dev/zram0", 262143, 2) == read_compressed_swap(tmp_path)
    assert 2 == len(parse_swaps(text))
    switch = tmp_path / "sys/module/zswap/parameters"
    switch.mkdir(parents=True)
    (switch / "enabled").write_text("Y\n")
    both = read_compressed_swap(tmp_path)
    assert both is not None
    assert 262143 + 524287 == both.size_pages


def test_this_host_agrees_with_zoneinfo() -> None:
    """Both ways to a node's free pages give about the same."""
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    if not nodes:
        pytest.skip("this kernel has no NUMA nodes in sysfs")
    ids = tuple(int(node.name[4:]) for node in nodes)
    usage = UsageReader(Path("/")).read(ids, max(ids) + 1, None)
    zones = parse_zoneinfo(Path("/proc/zoneinfo").read_text())
    for node in ids:
        capacity = int(usage.capacity_pages[node])
        assert zones[node]["managed"] == capacity
        free = int(usage.free_pages[node])
        assert abs(zones[node]["free"] - free) < capacity // 4

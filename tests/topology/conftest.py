"""Small machines made by hand, as the entries of a tree."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isotherm.topology.sysfs import read_tree
from isotherm.topology.tree import Link, MemoryStorage, Tree

NODES = "sys/devices/system/node"
TIERING = "sys/devices/virtual/memory_tiering"
KMEM = "sys/bus/dax/drivers/kmem"


@dataclass
class Machine:
    """A machine under construction."""

    entries: dict[str, bytes | Link] = field(default_factory=dict)

    def put(self, path: str, text: str) -> "Machine":
        """Add a file."""
        self.entries[path] = text.encode()
        return self

    def node(
        self, number: int, *, mem_kib: int, cpus: str = "", distance: str = ""
    ) -> "Machine":
        """Add a node's own files."""
        base = f"{NODES}/node{number}"
        total = f"Node {number} MemTotal:  {mem_kib:>12} kB\n"
        self.put(f"{base}/meminfo", total + f"Node {number} MemFree:  17 kB\n")
        self.put(f"{base}/cpulist", f"{cpus}\n")
        return self.put(f"{base}/distance", f"{distance}\n")

    def access(
        self,
        number: int,
        initiator: int,
        figures: tuple[int, int, int, int],
        *,
        kind: str = "access1",
    ) -> "Machine":
        """Add figures: read and write latency (ns), read and write MiB/s."""
        base = f"{NODES}/node{number}/{kind}/initiators"
        names = ("read_latency", "write_latency", "read_bandwidth", "write_bandwidth")
        for name, value in zip(names, figures, strict=True):
            self.put(f"{base}/{name}", f"{value}\n")
        self.entries[f"{base}/node{initiator}"] = Link(f"../../../node{initiator}")
        return self

    def dax(
        self, name: str, place: str, target: int, size: int, *, kmem: bool = True
    ) -> "Machine":
        """Add a DAX device below a place in ``/sys/devices``."""
        real = f"sys/devices/{place}/{name}"
        driver = "kmem" if kmem else "device_dax"
        self.put(f"{real}/target_node", f"{target}\n")
        self.put(f"{real}/size", f"{size}\n")
        self.entries[f"{real}/driver"] = Link(f"/sys/bus/dax/drivers/{driver}")
        self.put(f"sys/bus/dax/drivers/{driver}/bind", "")
        link = Link(f"../../../devices/{place}/{name}")
        self.entries[f"sys/bus/dax/devices/{name}"] = link
        return self

    def lists(self, online: str, has_memory: str, has_cpu: str) -> "Machine":
        """Add the lists of nodes."""
        self.put(f"{NODES}/online", f"{online}\n")
        self.put(f"{NODES}/has_memory", f"{has_memory}\n")
        return self.put(f"{NODES}/has_cpu", f"{has_cpu}\n")

    def tier(self, number: int, nodes: str) -> "Machine":
        """Add a tier of the kernel."""
        return self.put(f"{TIERING}/memory_tier{number}/nodelist", f"{nodes}\n")

    def tree(self) -> Tree:
        """Return the machine as a tree in memory."""
        return Tree("made", MemoryStorage(dict(self.entries)))

    def read(self):
        """Return the machine's topology."""
        return read_tree(self.tree())

    def write(self, root: Path) -> Path:
        """Write the machine to a directory and return it."""
        for path, entry in self.entries.items():
            at = root / path
            at.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Link):
                at.symlink_to(entry.target)
            else:
                at.write_bytes(entry)
        return root

    def tar(self, out: Path, mode: str = "w", prefix: str = "") -> Path:
        """Write the machine to a tar and return it."""
        with tarfile.open(out, mode) as tar:
            for path, entry in self.entries.items():
                member = tarfile.TarInfo(prefix + path)
                if isinstance(entry, Link):
                    member.type, member.linkname = tarfile.SYMTYPE, entry.target
                    tar.addfile(member)
                else:
                    member.size = len(entry)
                    tar.addfile(member, io.BytesIO(entry))
        return out


def _dram_cxl() -> Machine:
    """DRAM with CPUs and a CXL expander, figures as in the kernel's example."""
    machine = Machine().lists("0-1", "0-1", "0")
    machine.node(0, mem_kib=16 << 20, cpus="0-3", distance="10 20")
    machine.node(1, mem_kib=64 << 20, distance="20 10")
    machine.access(0, 0, (80, 80, 102400, 102400))
    machine.access(1, 0, (250, 250, 30720, 30720))
    place = "platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0"
    return machine.dax("dax0.0", place, 1, 64 << 30)


def _hbm_dram_pmem() -> Machine:
    """Three tiers: HBM, DRAM with CPUs, persistent memory."""
    machine = Machine().lists("0-2", "0-2", "0")
    machine.node(0, mem_kib=32 << 20, cpus="0-7", distance="10 20 30")
    machine.node(1, mem_kib=8 << 20, distance="20 10 30")
    machine.node(2, mem_kib=128 << 20, distance="30 30 10")
    machine.access(0, 0, (100, 100, 100000, 100000))
    machine.access(1, 0, (120, 120, 800000, 800000))
    machine.access(2, 0, (300, 400, 30000, 10000))
    machine.dax("dax0.0", "platform/hmem.0", 1, 8 << 30)
    place = "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/dax1.0"
    return machine.dax("dax1.0", place, 2, 128 << 30)


@pytest.fixture(scope="session")
def new_machine() -> Callable[[], Machine]:
    """Return what starts an empty machine."""
    return Machine


@pytest.fixture(scope="session")
def dram_cxl() -> Callable[[], Machine]:
    """Return what makes a two-tier machine."""
    return _dram_cxl


@pytest.fixture(scope="session")
def hbm_dram_pmem() -> Callable[[], Machine]:
    """Return what makes a three-tier machine."""
    return _hbm_dram_pmem

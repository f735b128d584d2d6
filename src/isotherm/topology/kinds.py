"""What a node is made of, and on what evidence."""

from collections.abc import Mapping
from dataclasses import dataclass

from isotherm.core.units import render_bytes
from isotherm.topology.devices import DaxDevice
from isotherm.topology.model import MemoryKind, Source

#: Memory with twice the bandwidth of the DRAM beside it is not DRAM: HBM parts
#: have 4 to 8 times as much (1000 against 218 GB/s on Xeon Max).
HBM_BANDWIDTH_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the tree says about one node's memory.

    Attributes:
        capacity_bytes: None where unknown.
        has_cpus: Whether CPUs are on the node.
        side_cache_bytes: 0 for none.
        gpu: Name of the GPU whose memory it is, empty for none.
        devices: DAX devices that serve as this node.
        bandwidth: Best read bandwidth by firmware in MiB/s, None where unknown.
        dram_bandwidth: The same of the machine's plain nodes with CPUs.
        has_cxl: Whether the machine has CXL memory devices at all.
    """

    capacity_bytes: int | None
    has_cpus: bool
    side_cache_bytes: int
    gpu: str
    devices: tuple[DaxDevice, ...]
    bandwidth: float | None
    dram_bandwidth: float | None
    has_cxl: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind, who said so, why, and a name for people."""

    kind: MemoryKind
    source: Source
    why: str
    label: str = ""


def derive_kind(evidence: Evidence) -> Verdict:
    """Return what a node is made of, strongest evidence first; UNKNOWN is honest."""
    if evidence.capacity_bytes == 0:
        return Verdict(MemoryKind.UNKNOWN, Source.ASSUMED, "no memory")
    if evidence.gpu:
        why = f"memory of {evidence.gpu}, says its driver (numa_status)"
        return Verdict(MemoryKind.GPU, Source.FIRMWARE, why, evidence.gpu)
    if evidence.devices:
        return _of_devices(evidence)
    if evidence.side_cache_bytes:
        size = render_bytes(evidence.side_cache_bytes)
        why = f"behind a memory-side cache of {size}; nothing says what it is made of"
        return Verdict(MemoryKind.UNKNOWN, Source.ASSUMED, why)
    if evidence.has_cpus:
        why = "CPUs on the node, and no device claims its memory"
        return Verdict(MemoryKind.DRAM, Source.ASSUMED, why)
    fast = _many_times_dram(evidence)
    if fast:
        return Verdict(MemoryKind.HBM, Source.FIRMWARE, f"no CPUs, {fast}")
    if evidence.has_cxl:
        why = "no CPUs, no device claims it, and the machine has CXL memory devices"
        return Verdict(MemoryKind.CXL, Source.ASSUMED, why)
    why = "no CPUs, and no device claims its memory"
    return Verdict(MemoryKind.UNKNOWN, Source.ASSUMED, why)


def _of_devices(evidence: Evidence) -> Verdict:
    names = ", ".join(dax.device.name for dax in evidence.devices)
    sizes = [dax.device.size_bytes for dax in evidence.devices]
    known = [size for size in sizes if size is not None]
    if (
        evidence.has_cpus
        and evidence.capacity_bytes is not None
        and len(known) == len(sizes)
        and sum(known) * 2 < evidence.capacity_bytes
    ):
        # Boot memory and a device share the node; the larger part names it.
        why = f"CPUs on the node; {names} is less than half of its memory"
        return Verdict(MemoryKind.DRAM, Source.ASSUMED, why, names)
    buses = {dax.bus for dax in evidence.devices}
    if buses == {"nd"}:
        why = f"{names} is a namespace of non-volatile DIMMs"
        return Verdict(MemoryKind.PMEM, Source.FIRMWARE, why, names)
    if buses == {"cxl"}:
        why = f"{names} is a CXL region"
        return Verdict(MemoryKind.CXL, Source.FIRMWARE, why, names)
    if buses == {"hmem"}:
        fast = _many_times_dram(evidence)
        if fast:
            why = f"{names} is specific-purpose memory, {fast}"
            return Verdict(MemoryKind.HBM, Source.FIRMWARE, why, names)
        if evidence.has_cxl:
            why = f"{names} is specific-purpose memory, and CXL memory devices exist"
            return Verdict(MemoryKind.CXL, Source.ASSUMED, why, names)
        why = f"{names} is specific-purpose memory; nothing says of which kind"
        return Verdict(MemoryKind.UNKNOWN, Source.ASSUMED, why, names)
    why = f"{names} stands on no one known bus"
    return Verdict(MemoryKind.UNKNOWN, Source.ASSUMED, why, names)


def _many_times_dram(evidence: Evidence) -> str:
    """Return the words for memory much faster than DRAM, empty where it is not."""
    fast, dram = evidence.bandwidth, evidence.dram_bandwidth
    if fast is None or dram is None or fast < HBM_BANDWIDTH_RATIO * dram:
        return ""
    return f"{fast / dram:.3g} times the bandwidth of DRAM"


def plain_bandwidth(
    bandwidth: Mapping[int, float], plain_nodes: frozenset[int]
) -> float | None:
    """Return the least bandwidth of nodes with CPUs that no device claims, in MiB/s.

    >>> plain_bandwidth({0: 1000.0, 2: 10000.0}, frozenset({0, 2}))
    1000.0
    """
    return min((bandwidth[n] for n in plain_nodes if n in bandwidth), default=None)

"""DAX devices and GPUs of a tree: who claims which node's memory."""

import re
from dataclasses import dataclass

from isotherm.topology.model import MemoryDevice, MemoryKind
from isotherm.topology.parse import MAX_NODES, parse_list, parse_number, parse_signed
from isotherm.topology.tree import Tree

_GPUS = "proc/driver/nvidia/gpus"

# A CXL region hangs below its root decoder:
# platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0/dax0.0
_CXL_PART = re.compile(r"ACPI0017:.*|decoder[0-9]+\.[0-9]+|cxl.*")
_FIELD = re.compile(r"^(Node|Status):[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that its driver lists.

    Attributes:
        address: Its place on the PCI bus, such as ``0035:05:00.0``.
        nodes: Its memory as NUMA nodes; empty where it is not coherent.
    """

    address: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DaxDevice:
    """A DAX device as its place in the tree tells it.

    Attributes:
        device: What goes into the topology; ``kind`` is UNKNOWN on the hmem bus.
        bus: ``nd``, ``cxl``, ``hmem`` or empty.
        path: Where it stands, for people.
    """

    device: MemoryDevice
    bus: str
    path: str


def read_dax_devices(tree: Tree) -> tuple[DaxDevice, ...]:
    """Return the DAX devices of a tree, by name.

    Linux 5.1 moved them from ``/sys/class/dax`` to ``/sys/bus/dax``; both are read.
    """
    found: dict[str, DaxDevice] = {}
    for parent in ("sys/bus/dax/devices", "sys/class/dax"):
        for name in tree.list(parent, "dax[0-9]*"):
            if name not in found:
                found[name] = _read_dax(tree, parent, name)
    return tuple(found[name] for name in sorted(found))


def _read_dax(tree: Tree, parent: str, name: str) -> DaxDevice:
    path = f"{parent}/{name}"
    real = tree.resolve(path)
    if real is None:
        tree.note(path, "a link to nothing", "a DAX device")
        real = path
    parts = real.split("/")
    bus, kind = "", MemoryKind.UNKNOWN
    if any(part.startswith("ndbus") for part in parts):
        # The NFIT bus carries non-volatile DIMMs and nothing else.
        bus, kind = "nd", MemoryKind.PMEM
    elif any(_CXL_PART.fullmatch(part) for part in parts):
        bus, kind = "cxl", MemoryKind.CXL
    elif any(part.startswith("hmem") for part in parts):
        # EFI specific-purpose memory: HBM or CXL, the bus does not say which.
        bus = "hmem"
    device = MemoryDevice(
        name=name,
        kind=kind,
        node=_read_target(tree, f"{path}/target_node"),
        size_bytes=_read_number(tree, f"{path}/size"),
        driver=_read_driver(tree, path, name),
    )
    return DaxDevice(device, bus, real)


def _read_target(tree: Tree, path: str) -> int | None:
    """Return the node that a device's memory is or would be on."""
    text = tree.read(path)
    if text is None:
        return None
    try:
        node = parse_signed(text)
    except ValueError as error:
        tree.note(path, repr(text), str(error))
        return None
    if node >= MAX_NODES:
        tree.note(path, text, f"a node below {MAX_NODES}")
        return None
    return node if node >= 0 else None


def _read_number(tree: Tree, path: str) -> int | None:
    text = tree.read(path)
    if text is None:
        return None
    try:
        return parse_number(text)
    except ValueError as error:
        tree.note(path, repr(text), str(error))
        return None


def _read_driver(tree: Tree, path: str, name: str) -> str:
    """Return the driver: from the device's link, else from the driver's list."""
    real = tree.resolve(f"{path}/driver")
    if real is not None:
        return real.rsplit("/", 1)[-1]
    # A recorded tree may have the link and not what it points to.
    target = tree.seen_links.get(f"{tree.resolve(path)}/driver")
    if target is not None:
        return target.rstrip("/").rsplit("/", 1)[-1]
    for driver in ("kmem", "device_dax"):
        if name in tree.list(f"sys/bus/dax/drivers/{driver}", "dax[0-9]*"):
            return driver
    return ""


def read_gpus(tree: Tree) -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver lists, by PCI address.

    ``numa_status`` names the node whose memory is the GPU's, on machines where it
    is coherent (POWER9 with NVLink, Grace).
    """
    return tuple(
        Gpu(address, _read_numa_status(tree, f"{_GPUS}/{address}/numa_status"))
        for address in tree.list(_GPUS, "*:*")
    )


def _read_numa_status(tree: Tree, path: str) -> tuple[int, ...]:
    text = tree.read(path)
    if text is None:
        return ()
    fields = dict(_FIELD.findall(text))
    node, status = fields.get("Node"), fields.get("Status", "")
    if node is None or node in ("-1", "N/A"):
        if node is None:
            tree.note(path, repr(text), "a line 'Node: N'")
        return ()
    if status.lower() != "online":
        tree.note(path, f"status {status!r}", "online; its memory is left out")
        return ()
    try:
        return parse_list(node, MAX_NODES)
    except ValueError as error:
        tree.note(path, f"node {node!r}", str(error))
        return ()

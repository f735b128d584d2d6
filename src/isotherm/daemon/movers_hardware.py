"""Movers below the kernel and beside it: memory controllers, GPU drivers.

What can be known of *Flat Memory Mode* (Xeon 6): the memory controller exchanges
lines between DRAM and CXL, 1:1, and shows one pool. Firmware says so in the HMAT, as
a memory-side cache whose address mode is extended-linear; Linux shows that as
``address_mode`` of a node's cache and ``extended_linear_cache_size`` of a CXL region,
and older kernels not at all: there the table itself is read, which root may. No
string of the BIOS names the mode. A transparent side cache (Optane's memory mode,
HBM in cache mode) keeps copies and leaves addresses alone: that is only told.

What can be known of *GPU access counters*: nvidia-uvm migrates pages that a GPU
reads across the bus, by ``uvm_perf_access_counter_migration_enable``: 0 off, 1 on,
-1 the driver's own choice, which is on where GPU memory is coherent, a node of its
own. Elsewhere it migrates managed memory at most, which is not ours to move.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from isotherm.core.errors import IsothermError
from isotherm.core.units import render_bytes
from isotherm.daemon.doctor.files import entries, read
from isotherm.daemon.movers_model import Mover
from isotherm.records.hmat import EXTENDED_LINEAR, SideCache, parse_side_caches
from isotherm.topology.devices import read_gpus
from isotherm.topology.tree import open_tree

NODES: Final = "sys/devices/system/node"
CXL: Final = "sys/bus/cxl/devices"
HMAT: Final = "sys/firmware/acpi/tables/HMAT"
UVM: Final = "sys/module/nvidia_uvm/parameters"
#: The parameter's names, newest driver first.
UVM_PARAMETERS: Final = (
    "uvm_perf_access_counter_migration_enable",
    "uvm_perf_access_counter_mimc_migration_enable",
)
UVM_DEVICE: Final = "/dev/nvidia-uvm"


def find_hardware_movers(root: Path, pids: frozenset[int] | None = None) -> list[Mover]:
    """Return memory controllers and GPU drivers that move memory of these processes.

    Args:
        root: Where /proc and /sys are.
        pids: Processes whose memory is meant; None: any.
    """
    return [*_side_caches(root), *_access_counters(root, pids)]


# ---- the memory controller


def _side_caches(root: Path) -> list[Mover]:
    flat = [*_flat_nodes(root), *_flat_regions(root)]
    if not flat:
        flat = _flat_in_hmat(root)
    if flat:
        return [
            Mover(
                "flat-memory-mode",
                f"{flat[0]}: the memory controller exchanges lines between DRAM and"
                " CXL by itself, and no move of a page changes where they are",
                None,
            )
        ]
    plain = [
        f"node {node[4:]} behind {render_bytes(size)}"
        for node, _, size, mode in _caches(root)
        if size and mode != EXTENDED_LINEAR
    ]
    if not plain:
        return []
    return [
        Mover(
            "memory-side-cache",
            f"/{NODES}: {', '.join(plain)} of memory-side cache: hardware keeps"
            " copies of hot lines, and a latency is one of hits and misses",
            None,
            refuses=False,
        )
    ]


def _caches(root: Path) -> Iterable[tuple[str, str, int, int | None]]:
    """Yield node, path, size and address mode of every memory-side cache."""
    for node in entries(root, NODES):
        if not node.startswith("node"):
            continue
        for index in entries(root, f"{NODES}/{node}/memory_side_cache"):
            path = f"{NODES}/{node}/memory_side_cache/{index}"
            size = read(root, f"{path}/size").number
            # Linux 6.15 added address_mode; older kernels have no such file.
            yield node, path, size or 0, read(root, f"{path}/address_mode").number


def _flat_nodes(root: Path) -> list[str]:
    return [
        f"/{path}/address_mode is {mode} (extended-linear, {render_bytes(size)})"
        for _, path, size, mode in _caches(root)
        if mode == EXTENDED_LINEAR
    ]


def _flat_regions(root: Path) -> list[str]:
    found = []
    for region in entries(root, CXL):
        file = read(root, f"{CXL}/{region}/extended_linear_cache_size")
        size = _any_base(file.text)
        if region.startswith("region") and size:
            found.append(f"{file.path} is {render_bytes(size)}")
    return found


def _any_base(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def _flat_in_hmat(root: Path) -> list[str]:
    try:
        caches: list[SideCache] = parse_side_caches((root / HMAT).read_bytes())
    except (OSError, ValueError):  # not there, not for us, not to be understood
        return []
    return [
        f"/{HMAT}: proximity domain {cache.domain} is extended-linear with"
        f" {render_bytes(cache.size_bytes)}"
        for cache in caches
        if cache.address_mode == EXTENDED_LINEAR
    ]


# ---- the GPU's driver


def _access_counters(root: Path, pids: frozenset[int] | None) -> list[Mover]:
    for name in UVM_PARAMETERS:
        file = read(root, f"{UVM}/{name}")
        if file.number is not None:
            break
    else:
        return []
    coherent = _coherent_nodes(root)
    if file.number == 0 or (file.number < 0 and not coherent):
        return []
    if pids is not None and not _any_uses(root, pids, UVM_DEVICE):
        return []
    command = f"modprobe -r nvidia_uvm && modprobe nvidia_uvm {name}=0"
    if not coherent:
        return [
            Mover(
                "gpu-access-counters",
                f"{file.said}: nvidia-uvm migrates managed memory that a GPU reads"
                " across the bus; other memory it leaves alone",
                command,
                refuses=False,
            )
        ]
    nodes = ", ".join(map(str, coherent))
    said = file.said if file.number > 0 else f"{file.said} (the driver's choice)"
    return [
        Mover(
            "gpu-access-counters",
            f"{said}, and GPU memory is node {nodes}: nvidia-uvm migrates what a GPU"
            " reads across the link",
            command,
        )
    ]


def _coherent_nodes(root: Path) -> list[int]:
    """Return the nodes whose memory is a GPU's, ascending."""
    try:
        gpus = read_gpus(open_tree(root))
    except IsothermError:
        return []
    return sorted({node for gpu in gpus for node in gpu.nodes})


def _any_uses(root: Path, pids: frozenset[int], device: str) -> bool:
    """Return whether a process has a device open; True where nobody may know."""
    return any(_uses(root / "proc" / str(pid) / "fd", device) for pid in pids)


def _uses(
    descriptors: Path,
    device: str,
    readlink: Callable[[Path], Path] = Path.readlink,
) -> bool:
    try:
        names = list(descriptors.iterdir())
    except OSError:
        return True
    for name in names:
        try:
            if str(readlink(name)) == device:
                return True
        except OSError:  # closed meanwhile
            continue
    return False

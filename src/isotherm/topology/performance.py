"""What firmware says of latency and bandwidth: the nodes' access classes."""

from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    Source,
)
from isotherm.topology.parse import parse_number
from isotherm.topology.tree import Tree

NODES = "sys/devices/system/node"

# Linux 5.10 ("node: Add access1 class to represent CPU to memory characteristics")
# added access1, in which only CPUs are initiators: in access0 the nearest initiator
# may be a generic one, a GPU or a network card, whose figures are not the CPUs'.
# So access1 goes first, and access0 stands in only where access1 says nothing.
CLASSES = ("access1", "access0")

FIGURES = {
    "read_latency_ns": "read_latency",
    "write_latency_ns": "write_latency",
    "read_bandwidth_mib_s": "read_bandwidth",
    "write_bandwidth_mib_s": "write_bandwidth",
}

# The kernel keeps each in an unsigned int; HMAT's largest are far below.
_MOST = {"read_latency": 1_000_000, "write_latency": 1_000_000}
_MOST_MIB_S = 1 << 30


def read_performance(
    tree: Tree, nodes: tuple[int, ...], initiators: tuple[Initiator, ...]
) -> tuple[AccessPerformance, ...]:
    """Return one row per (initiator, node) that an access class tells about.

    A class names only the nearest initiators of a node; what others see of it is
    not in sysfs, and has no row. A figure of 0 is firmware's "not known".

    Args:
        tree: The machine.
        nodes: Ids of online nodes.
        initiators: As numbered in the topology.
    """
    rows: dict[tuple[int, int], AccessPerformance] = {}
    silent: dict[str, list[int]] = {}
    for node in nodes:
        for name in CLASSES:
            path = f"{NODES}/node{node}/{name}/initiators"
            if not tree.is_directory(path):
                continue
            figures = {
                key: _read_figure(tree, f"{path}/{f}") for key, f in FIGURES.items()
            }
            for key, figure in figures.items():
                if figure is None:
                    silent.setdefault(key, []).append(node)
            if not any(figures.values()):
                continue
            for initiator in _named_initiators(tree, path, node, initiators):
                row = AccessPerformance(initiator, node, **figures)
                rows.setdefault((initiator, node), row)
    for key, at in silent.items():
        silent_at = sorted(set(at))
        which = "node " if len(silent_at) == 1 else "nodes "
        which += ", ".join(map(str, silent_at))
        tree.notes.append(f"{key}: 0 or absent for {which}, taken as unknown")
    return tuple(rows[key] for key in sorted(rows))


def _read_figure(tree: Tree, path: str) -> Figure | None:
    text = tree.read(path)
    if text is None:
        return None
    name = path.rsplit("/", 1)[-1]
    most = _MOST.get(name, _MOST_MIB_S)
    try:
        value = parse_number(text)
    except ValueError as error:
        tree.note(path, repr(text), str(error))
        return None
    if value > most:
        tree.note(path, text, f"at most {most}")
        return None
    return Figure(float(value), Source.FIRMWARE) if value else None


def _named_initiators(
    tree: Tree, path: str, node: int, initiators: tuple[Initiator, ...]
) -> list[int]:
    """Return the ids of the initiators that a class links to."""
    linked: list[int] = []
    for name in tree.list(path, "node[0-9]*"):
        digits = name.removeprefix("node")
        if digits.isascii() and digits.isdigit():
            linked.append(int(digits[:9]))
    if not linked:
        tree.note(path, "no nodeN in it", "the initiators that its figures are for")
        return []
    by_node = {i.node: i.id for i in initiators if i.kind is InitiatorKind.CPU}
    gpu_of = {i.node: i.id for i in initiators if i.kind is InitiatorKind.GPU}
    ids: list[int] = []
    for number in linked:
        if number in by_node:
            ids.append(by_node[number])
        elif number in gpu_of:
            ids.append(gpu_of[number])
        else:
            tree.note(
                f"{path}/node{number}",
                f"an initiator of node {node} without CPUs",
                "a CPU or GPU node; its figures are left out",
            )
    return ids

"""Read a topology from a live or recorded ``/sys`` and ``/proc``.

What decides which nodes there are must be readable, or the tree is an error. All
else may be missing or broken: it is then None or "unknown", with a note.
"""

from pathlib import Path

from isotherm.core.units import render_bytes
from isotherm.topology.devices import DaxDevice, Gpu, read_dax_devices, read_gpus
from isotherm.topology.gpu_memory import PARAMS, read_mode
from isotherm.topology.kernel_tiers import read_tiers
from isotherm.topology.kinds import Evidence, Verdict, derive_kind, plain_bandwidth
from isotherm.topology.model import (
    AccessPerformance,
    Initiator,
    InitiatorKind,
    MemoryDevice,
    Node,
    Topology,
)
from isotherm.topology.parse import (
    MAX_CPUS,
    MAX_NODES,
    parse_distances,
    parse_list,
    parse_machine_total,
    parse_mask,
    parse_mem_total,
    parse_number,
)
from isotherm.topology.performance import NODES, read_performance
from isotherm.topology.tree import Tree, open_tree


def read_topology(root: Path) -> Topology:
    """Return the memory of a machine.

    Args:
        root: ``/`` for this machine, or a recorded directory or tar (plain, gzip,
            bzip2, xz) with ``sys`` and ``proc`` in it.

    Raises:
        TopologyError: There is no such tree, it is damaged, or it does not say
            which nodes there are.
    """
    return read_tree(open_tree(root))


def read_tree(tree: Tree) -> Topology:
    """Return the memory of the machine in a tree; see :func:`read_topology`.

    Raises:
        TopologyError: The tree does not say which nodes there are.
    """
    online = _read_online(tree)
    has_memory = _read_node_list(tree, "has_memory")
    has_cpu = _read_node_list(tree, "has_cpu")
    cpus = _read_cpus(tree, online)
    capacity = {n: _read_capacity(tree, n, has_memory) for n in online}
    _check_total(tree, tuple(capacity.values()))
    caches = {n: _read_side_cache(tree, n) for n in online}
    gpus = read_gpus(tree)
    _check_hidden(tree, gpus)
    cpu_nodes = tuple(n for n in online if cpus[n] or (has_cpu and n in has_cpu))
    for node in cpu_nodes:
        if not cpus[node]:
            tree.note(f"{NODES}/node{node}/cpulist", "no CPUs", "some, as has_cpu says")
    initiators = _number_initiators(cpu_nodes, gpus, online)
    performance = read_performance(tree, online, initiators)
    dax = read_dax_devices(tree)
    verdicts = _classify(
        tree, online, capacity, frozenset(cpu_nodes), caches, gpus, dax, performance
    )
    nodes = tuple(
        Node(
            id=n,
            kind=verdicts[n].kind,
            kind_source=verdicts[n].source,
            capacity_bytes=capacity[n],
            cpus=cpus[n],
            side_cache_bytes=caches[n],
            label=verdicts[n].label,
            kind_evidence=verdicts[n].why,
        )
        for n in online
    )
    distances = _read_distances(tree, online)
    tiers = read_tiers(tree, nodes, initiators, performance, distances)
    return Topology(
        nodes=nodes,
        tiers=tiers,
        initiators=initiators,
        performance=performance,
        distances=distances,
        notes=tuple(tree.notes),
        devices=_name_devices(dax, verdicts),
    )


def _check_hidden(tree: Tree, gpus: tuple[Gpu, ...]) -> None:
    """Note GPUs whose memory would be a node if their driver did not keep it."""
    absent = [f"gpu{i}" for i, gpu in enumerate(gpus) if not gpu.nodes]
    if absent and read_mode(tree) == "driver":
        # From driver 615 on CDMM is also what an unset parameter means there.
        tree.notes.append(
            f"{PARAMS}: CoherentGPUMemoryMode is driver: memory of"
            f" {', '.join(absent)} is no node, also where the link is coherent"
        )


def _read_online(tree: Tree) -> tuple[int, ...]:
    """Return the ids of online nodes.

    Raises:
        TopologyError: Neither the list nor the directories tell.
    """
    path = f"{NODES}/online"
    text = tree.read(path)
    if text is not None:
        try:
            online = parse_list(text, MAX_NODES)
        except ValueError as error:
            raise tree.error(path, repr(text), str(error)) from None
        if not online:
            raise tree.error(path, "an empty list", "at least one node")
        return online
    names = [name.removeprefix("node") for name in tree.list(NODES, "node[0-9]*")]
    found = sorted(int(n) for n in names if n.isascii() and n.isdigit() and len(n) < 5)
    online = tuple(n for n in found if n < MAX_NODES)
    if not online:
        raise tree.error(path, "nothing", "the list of NUMA nodes")
    tree.note(path, "nothing", "the list of nodes; took the nodeN directories")
    return online


def _read_node_list(tree: Tree, name: str) -> tuple[int, ...] | None:
    """Return a list of nodes, None where the tree has none that can be read.

    Linux 3.2 added has_memory and has_cpu; older trees lack them.
    """
    path = f"{NODES}/{name}"
    text = tree.read(path)
    if text is None:
        return None
    try:
        return parse_list(text, MAX_NODES)
    except ValueError as error:
        tree.note(path, repr(text), str(error))
        return None


def _read_cpus(tree: Tree, online: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return the CPUs of each node; a CPU on two nodes is noted."""
    cpus: dict[int, tuple[int, ...]] = {}
    owner: dict[int, int] = {}
    for node in online:
        base = f"{NODES}/node{node}"
        if not tree.is_directory(base):
            tree.note(base, "nothing", "a directory, as the node is online")
        cpus[node] = _read_cpu_list(tree, base)
        shared = [cpu for cpu in cpus[node] if owner.setdefault(cpu, node) != node]
        if shared:
            first = shared[0]
            tree.note(
                f"{base}/cpulist",
                f"CPU {first}, also on node {owner[first]}",
                "each CPU on one node",
            )
    return cpus


def _read_cpu_list(tree: Tree, base: str) -> tuple[int, ...]:
    text = tree.read(f"{base}/cpulist")
    if text is not None:
        try:
            return parse_list(text, MAX_CPUS)
        except ValueError as error:
            tree.note(f"{base}/cpulist", repr(text), str(error))
    # Linux before 2.6.26 has the mask only.
    text = tree.read(f"{base}/cpumap")
    if text is not None:
        try:
            return parse_mask(text)
        except ValueError as error:
            tree.note(f"{base}/cpumap", repr(text), str(error))
    return ()


def _read_capacity(
    tree: Tree, node: int, has_memory: tuple[int, ...] | None
) -> int | None:
    """Return a node's managed bytes, 0 for none, None where nobody says."""
    path = f"{NODES}/node{node}/meminfo"
    listed = None if has_memory is None else node in has_memory
    text = tree.read(path)
    if text is None:
        if listed is False:
            return 0
        tree.note(path, "nothing", f"the capacity of node {node}; it is unknown")
        return None
    try:
        total = parse_mem_total(text, node)
    except ValueError as error:
        tree.note(path, repr(text), str(error))
        return None
    if listed is False and total:
        tree.note(path, f"{total} bytes", "none, as has_memory leaves the node out")
    if listed and not total:
        tree.note(path, "0 bytes", "some, as has_memory names the node")
        return None
    return total


def _check_total(tree: Tree, capacity: tuple[int | None, ...]) -> None:
    """Note where the nodes' capacities are not what the whole machine has.

    Both are managed pages, but a guest with a balloon has been seen whose node
    says 6.5 GiB and whose ``/proc/meminfo`` 23.5 GiB.
    """
    text = tree.read("proc/meminfo")
    known = [size for size in capacity if size is not None]
    if text is None or len(known) != len(capacity):
        return
    try:
        total = parse_machine_total(text)
    except ValueError as error:
        tree.note("proc/meminfo", repr(text), str(error))
        return
    if abs(sum(known) - total) * 16 > total:
        tree.note(
            "proc/meminfo",
            render_bytes(total),
            f"about the {render_bytes(sum(known))} of the nodes' meminfo",
        )


def _read_side_cache(tree: Tree, node: int) -> int:
    """Return the bytes of the largest memory-side cache of a node, 0 for none."""
    base = f"{NODES}/node{node}/memory_side_cache"
    sizes = [0]
    for name in tree.list(base, "index[0-9]*"):
        path = f"{base}/{name}/size"
        text = tree.read(path)
        try:
            sizes.append(parse_number(text or ""))
        except ValueError as error:
            tree.note(path, repr(text), str(error))
    return max(sizes)


def _read_distances(tree: Tree, online: tuple[int, ...]) -> dict[int, dict[int, int]]:
    """Return the SLIT rows that can be read; columns are the online nodes."""
    rows: dict[int, dict[int, int]] = {}
    for node in online:
        path = f"{NODES}/node{node}/distance"
        text = tree.read(path)
        if text is None:
            tree.note(path, "nothing", "distances; they are unknown")
            continue
        try:
            row = parse_distances(text, len(online))
        except ValueError as error:
            tree.note(path, repr(text), str(error))
            continue
        rows[node] = dict(zip(online, row, strict=True))
    return rows


def _number_initiators(
    cpu_nodes: tuple[int, ...], gpus: tuple[Gpu, ...], online: tuple[int, ...]
) -> tuple[Initiator, ...]:
    """Return CPU nodes by id, then GPUs by address, numbered from 0."""
    found = [(InitiatorKind.CPU, node, f"cpu{node}") for node in cpu_nodes]
    gpu_rows: list[tuple[InitiatorKind, int | None, str]] = []
    for i, gpu in enumerate(gpus):
        local = [node for node in gpu.nodes if node in online]
        gpu_rows.append((InitiatorKind.GPU, local[0] if local else None, f"gpu{i}"))
    rows = [*found, *gpu_rows]
    return tuple(
        Initiator(i, kind, node, name) for i, (kind, node, name) in enumerate(rows)
    )


def _classify(
    tree: Tree,
    online: tuple[int, ...],
    capacity: dict[int, int | None],
    cpu_nodes: frozenset[int],
    caches: dict[int, int],
    gpus: tuple[Gpu, ...],
    dax: tuple[DaxDevice, ...],
    performance: tuple[AccessPerformance, ...],
) -> dict[int, Verdict]:
    """Return what each node is made of."""
    serving: dict[int, list[DaxDevice]] = {}
    for device in dax:
        node, driver = device.device.node, device.device.driver
        if node is None or driver != "kmem":
            continue
        if node in online:
            serving.setdefault(node, []).append(device)
        else:
            tree.note(device.path, f"kmem memory for node {node}", "that node online")
    bandwidth: dict[int, float] = {}
    for row in performance:
        if row.read_bandwidth_mib_s is not None:
            value = row.read_bandwidth_mib_s.value
            bandwidth[row.node] = max(bandwidth.get(row.node, 0.0), value)
    plain = cpu_nodes - serving.keys()
    has_cxl = bool(tree.list("sys/bus/cxl/devices", "mem[0-9]*"))
    gpu_names = {n: f"gpu{i}" for i, gpu in enumerate(gpus) for n in gpu.nodes}
    for node, name in gpu_names.items():
        if node not in online:
            tree.note(f"numa_status of {name}", f"node {node}", "an online node")
    return {
        node: derive_kind(
            Evidence(
                capacity_bytes=capacity[node],
                has_cpus=node in cpu_nodes,
                side_cache_bytes=caches[node],
                gpu=gpu_names.get(node, ""),
                devices=tuple(serving.get(node, ())),
                bandwidth=bandwidth.get(node),
                dram_bandwidth=plain_bandwidth(bandwidth, plain),
                has_cxl=has_cxl,
            )
        )
        for node in online
    }


def _name_devices(
    dax: tuple[DaxDevice, ...], verdicts: dict[int, Verdict]
) -> tuple[MemoryDevice, ...]:
    """Return the devices, each with the kind of the node it serves if that is known."""
    named: list[MemoryDevice] = []
    for entry in dax:
        device = entry.device
        verdict = None if device.node is None else verdicts.get(device.node)
        if entry.bus == "hmem" and device.driver == "kmem" and verdict is not None:
            device = MemoryDevice(
                device.name, verdict.kind, device.node, device.size_bytes, device.driver
            )
        named.append(device)
    return tuple(named)

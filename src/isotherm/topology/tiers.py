"""Tiers: the kernel's own, else by performance, else by kind and distance.

Tiers are as the CPUs see them: GPU memory that is nearest to its GPU still stands
below the DRAM beside the CPUs. What a GPU sees is in its own performance rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from isotherm.topology.adistance import (
    ADISTANCE_DRAM,
    ADISTANCE_KMEM,
    Coordinates,
    kernel_wraps,
    mt_perf_to_adistance,
    tier_id,
)
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
)

#: Order of slow memory where nobody gives figures, nearest first: published idle
#: latencies are 140 to 250 ns remote, 170 to 400 ns CXL, 300 ns and more for PMEM.
SLOW_KINDS = (
    MemoryKind.GPU,
    MemoryKind.REMOTE,
    MemoryKind.CXL,
    MemoryKind.UNKNOWN,
    MemoryKind.PMEM,
    MemoryKind.COMPRESSED,
)

#: Where HBM goes when nobody says how fast it is: half way to DRAM.
ASSUMED_HBM_TIER = tier_id(ADISTANCE_DRAM // 2)

_STRENGTH = tuple(Source)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one node belongs.

    Attributes:
        tier: The kernel's tier number.
        adistance: None where it is not known in full.
        source: The strongest source among the figures that decided.
        why: For people.
    """

    tier: int
    adistance: int | None
    source: Source
    why: str


def derive_tiers(
    nodes: Iterable[Node],
    initiators: Iterable[Initiator],
    performance: Iterable[AccessPerformance],
    distances: Mapping[int, Mapping[int, int]],
) -> tuple[tuple[Tier, ...], tuple[str, ...]]:
    """Return tiers without the kernel's help, fastest first, and notes for people.

    A node with figures goes by its abstract distance relative to the first DRAM
    node with CPUs; where latency or bandwidth alone is known, the other counts as
    equal and no distance is given. A node without figures goes by its kind, slow
    ones apart by distance from the nearest CPUs, from the kernel's default for
    DAX memory (5 times DRAM) down.
    """
    held = [node for node in nodes if node.has_memory]
    places, notes = place_by_performance(held, initiators, performance)
    rest = [node for node in held if node.id not in places]
    cpu_nodes = [i.node for i in initiators if i.kind is InitiatorKind.CPU]
    places |= _place_by_kind(rest, distances, [n for n in cpu_nodes if n is not None])
    return _group(places), notes


def _group(places: Mapping[int, Place]) -> tuple[Tier, ...]:
    grouped: dict[int, list[int]] = {}
    for node in sorted(places):
        grouped.setdefault(places[node].tier, []).append(node)
    tiers: list[Tier] = []
    for number in sorted(grouped):
        members = [places[node] for node in grouped[number]]
        known = [p.adistance for p in members if p.adistance is not None]
        # One guess among a tier's members makes the tier a guess.
        weakest = Source.ASSUMED
        if all(place.source is not Source.ASSUMED for place in members):
            weakest = max((p.source for p in members), key=_STRENGTH.index)
        why = "; ".join(dict.fromkeys(place.why for place in members))
        nearest = min(known) if len(known) == len(members) else None
        tiers.append(Tier(number, nearest, tuple(grouped[number]), weakest, why))
    return tuple(tiers)


def place_by_performance(
    nodes: Iterable[Node],
    initiators: Iterable[Initiator],
    performance: Iterable[AccessPerformance],
) -> tuple[dict[int, Place], tuple[str, ...]]:
    """Return the places of nodes whose figures tell, and notes for people."""
    cpus = {i.id for i in initiators if i.kind is InitiatorKind.CPU}
    best: dict[int, AccessPerformance] = {}
    for row in performance:
        if row.initiator in cpus:
            other = best.get(row.node)
            best[row.node] = row if other is None else min(row, other, key=_slowness)
    nodes = list(nodes)
    reference = next(
        (n.id for n in nodes if n.kind is MemoryKind.DRAM and n.cpus and n.id in best),
        None,
    )
    if reference is None:
        # Machines of HBM alone, or with a cache before every node, have no DRAM.
        reference = next((n.id for n in nodes if n.cpus and n.id in best), None)
    if reference is None:
        return {}, ()
    places: dict[int, Place] = {}
    notes: list[str] = []
    for node in nodes:
        place = (
            _compare(best[node.id], best[reference], reference)
            if node.id in best
            else None
        )
        if place is None:
            continue
        places[node.id] = place
        if place.adistance is not None and _wraps(best[node.id], best[reference]):
            notes.append(
                f"node {node.id}: the kernel's 32-bit abstract distance overflows on "
                f"these figures; {place.adistance} is the exact one"
            )
    return places, tuple(notes)


def _slowness(row: AccessPerformance) -> tuple[float, float]:
    latency = _sum(row.read_latency_ns, row.write_latency_ns)
    bandwidth = _sum(row.read_bandwidth_mib_s, row.write_bandwidth_mib_s)
    return (latency or float("inf"), -bandwidth)


def _sum(*figures: Figure | None) -> float:
    return sum(figure.value for figure in figures if figure is not None)


def _pairs(
    row: AccessPerformance, reference: AccessPerformance, *names: str
) -> tuple[list[int], list[int], list[Figure]]:
    """Return what both rows know of some figures, whole numbers, and the figures."""
    ours, theirs, used = [], [], []
    for name in names:
        mine, base = getattr(row, name), getattr(reference, name)
        known = mine is not None and base is not None
        # The kernel's figures are whole; a person may write 80.5.
        ours.append(max(round(mine.value), 1) if known else 0)
        theirs.append(max(round(base.value), 1) if known else 0)
        used += [mine, base] if known else []
    return ours, theirs, used


def _coordinates(
    row: AccessPerformance, reference: AccessPerformance
) -> tuple[Coordinates, Coordinates, list[Figure], list[Figure]]:
    latency = _pairs(row, reference, "read_latency_ns", "write_latency_ns")
    bandwidth = _pairs(row, reference, "read_bandwidth_mib_s", "write_bandwidth_mib_s")
    ours = Coordinates(*latency[0], *bandwidth[0])
    theirs = Coordinates(*latency[1], *bandwidth[1])
    return ours, theirs, latency[2], bandwidth[2]


def _wraps(row: AccessPerformance, reference: AccessPerformance) -> bool:
    ours, theirs, _, _ = _coordinates(row, reference)
    return kernel_wraps(ours, theirs)


def _compare(
    row: AccessPerformance, reference: AccessPerformance, node: int
) -> Place | None:
    """Return the place of memory beside the reference, None where nothing is known."""
    ours, theirs, latency, bandwidth = _coordinates(row, reference)
    if not latency and not bandwidth:
        return None
    source = max((f.source for f in latency + bandwidth), key=_STRENGTH.index)
    if latency and bandwidth:
        exact = mt_perf_to_adistance(ours, theirs)
        assert exact is not None  # noqa: S101  # neither sum is 0 here
        why = f"abstract distance from latency and bandwidth, node {node} = 576"
        return Place(tier_id(exact), exact, source, why)
    if latency:
        adistance = ADISTANCE_DRAM * ours.latency_ns // theirs.latency_ns
        why = f"latency alone, relative to node {node}; bandwidth unknown"
    else:
        adistance = ADISTANCE_DRAM * theirs.bandwidth_mib_s // ours.bandwidth_mib_s
        why = f"bandwidth alone, relative to node {node}; latency unknown"
    return Place(tier_id(adistance), None, source, why)


def _place_by_kind(
    nodes: list[Node],
    distances: Mapping[int, Mapping[int, int]],
    cpu_nodes: list[int],
) -> dict[int, Place]:
    """Return the places of nodes nobody gives figures for."""
    places: dict[int, Place] = {}
    slow: dict[tuple[int, int], list[Node]] = {}
    for node in nodes:
        cpus = bool(node.cpus) or node.id in cpu_nodes
        unclaimed = cpus and node.kind is MemoryKind.UNKNOWN
        source = _of_kind(node)
        if node.kind is MemoryKind.HBM:
            why = "HBM without figures"
            places[node.id] = Place(ASSUMED_HBM_TIER, None, source, why)
        elif node.kind is MemoryKind.DRAM or unclaimed:
            why = "DRAM without figures" if not unclaimed else "CPUs without figures"
            why += ": the kernel's default tier"
            places[node.id] = Place(
                tier_id(ADISTANCE_DRAM), ADISTANCE_DRAM, source, why
            )
        else:
            near = [distances.get(c, {}).get(node.id, 0) for c in cpu_nodes]
            distance = min((d for d in near if d), default=0)
            key = (SLOW_KINDS.index(node.kind), distance)
            slow.setdefault(key, []).append(node)
    for step, key in enumerate(sorted(slow)):
        for node in slow[key]:
            unknown = node.kind is MemoryKind.UNKNOWN
            kind = "memory of unknown kind" if unknown else node.kind.value
            at = f" at distance {key[1]}" if key[1] else ""
            why = f"{kind}{at} without figures: from the kernel's DAX default down"
            adistance = ADISTANCE_KMEM if step == 0 else None
            number = tier_id(ADISTANCE_KMEM) + step
            places[node.id] = Place(number, adistance, _of_kind(node), why)
    return places


def _of_kind(node: Node) -> Source:
    """Return the source of a place that rests on a kind: a person's word or a guess."""
    configured = node.kind_source is Source.CONFIGURED
    return Source.CONFIGURED if configured else Source.ASSUMED

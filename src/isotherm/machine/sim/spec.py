"""Machines as data: the built-in ones and TOML files.

A machine is a scale model. ``fast_ratio`` sets how many pages of the footprint
the fastest tier holds; every other tier but the last holds ``capacity_ratio``
times that, the last holds everything. Bandwidth scales with size: a node that
serves 218 GB/s at ``reference_gib`` of total memory serves that share of it
that the simulated footprint is of the reference.
"""

import math
import re
import tomllib
from fractions import Fraction
from importlib import resources
from itertools import pairwise
from pathlib import Path

import msgspec

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.files import file_error
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.sim.chmu_spec import HotnessUnitSpec
from isotherm.machine.sim.expander_spec import ExpanderSpec
from isotherm.machine.sim.huge_spec import HugeSpec
from isotherm.machine.sim.queueing import QUEUE_SHARE
from isotherm.topology.model import (
    AccessPerformance,
    Figure,
    Initiator,
    InitiatorKind,
    MemoryKind,
    Node,
    Source,
    Tier,
    Topology,
)
from isotherm.trace.stream import Background

BUILT_IN = {
    "dram-cxl": "DRAM 80 ns and CXL 250 ns, no queueing: the reference cost model",
    "dram-cxl-fast": "Sapphire Rapids with a CXL ASIC: 114/271 ns, 218/26 GB/s",
    "dram-pmem": "DRAM and Optane: 92/323 ns, 81/26 GB/s, slow writes",
    "dram-remote": "two sockets, the other one as slow tier: 70/135 ns",
    "hbm-dram-cxl": "HBM, DRAM and CXL: three tiers",
    "dram-zram": "DRAM and lz4 in memory: 80 ns and 4.6 µs",
    "gpu-host": "a GPU's HBM and host memory over PCIe 5",
    "gpu-coherent": "GPU and CPU, each with memory that the other reaches: GH200",
    "two-socket-cxl": "two sockets with DRAM each and one CXL expander",
    "ocp-expander": "DRAM and one CXL device, a region of it compressing inline",
}

MIB = 1 << 20
MAX_NODES = 8  # three bits of a page's flags (play.NODE_MASK)
MAX_INITIATORS = 255  # 255 is "unknown" in a trace
MAX_LATENCY_NS = 1e9  # a second: a slip of the unit, whatever the memory
MAX_CAPACITY_RATIO = 1e6
#: What lies beside a recorded tree and says what its firmware left out.
OVERRIDES_SUFFIX = ".overrides.toml"


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node. Latencies are lists: one figure per initiator."""

    kind: MemoryKind
    tier: int
    read_latency_ns: list[float]
    write_latency_ns: list[float] | None = None
    read_bandwidth_gb_s: float | None = None
    write_bandwidth_gb_s: float | None = None
    capacity_ratio: float = 1.0
    initiators: list[int] = []


class CostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What looking and moving cost.

    Defaults are the reference cost model: 200 ns a sample, 30 ns a page-table
    entry, 1 µs a hint fault, 2.5 µs a 4 KiB page moved.
    """

    sample_ns: float = 200.0
    entry_ns: float = 30.0
    fault_ns: float = 1000.0
    move_fixed_ns: float = 0.0
    move_page_ns: float = 2500.0
    move_byte_ns: float = 0.0


class MachineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine. ``parallelism`` divides latency: memory-level parallelism.

    ``initiator_parallelism`` is that of each initiator where they differ;
    ``misses_in_flight`` is the most that an initiator has, whatever a stream of
    accesses would like; with ``uniform_stall`` every access stalls alike, for its
    latency over ``parallelism``, whatever its stream says. ``threads`` closes the
    loop: so many, on a machine of reference size, make the next access when the one
    before it is done.
    """

    name: str
    description: str
    nodes: list[NodeSpec]
    initiators: list[InitiatorKind] = msgspec.field(
        default_factory=lambda: [InitiatorKind.CPU]
    )
    parallelism: float = 1.0
    initiator_parallelism: list[float] | None = None
    misses_in_flight: list[float] | None = None
    uniform_stall: bool = False
    reference_gib: float = 256.0
    queue_share: float = QUEUE_SHARE
    threads: float | None = None
    background: list[Background] = []
    costs: CostSpec = CostSpec()
    expander: ExpanderSpec | None = None
    hotness_unit: HotnessUnitSpec | None = None
    huge_pages: HugeSpec = HugeSpec()

    def check(self, path: str) -> None:
        """Raise ConfigError where the figures do not make a machine."""
        if not 2 <= len(self.nodes) <= MAX_NODES:
            raise ConfigError(
                f"{path}: nodes: expected 2 to {MAX_NODES}, got {len(self.nodes)}"
            )
        if not 1 <= len(self.initiators) <= MAX_INITIATORS:
            raise ConfigError(
                f"{path}: initiators: expected 1 to {MAX_INITIATORS}, "
                f"got {len(self.initiators)}"
            )
        tiers = sorted({n.tier for n in self.nodes})
        if tiers != list(range(len(tiers))) or len(tiers) < 2:
            raise ConfigError(
                f"{path}: nodes.tier: expected 0, 1, … without gaps, got {tiers}"
            )
        for i, node in enumerate(self.nodes):
            for field in ("read_latency_ns", "write_latency_ns"):
                row = getattr(node, field)
                if row is not None and (
                    len(row) != len(self.initiators)
                    or not all(0 < figure <= MAX_LATENCY_NS for figure in row)
                ):
                    raise ConfigError(
                        f"{path}: nodes[{i}].{field}: expected {len(self.initiators)} "
                        f"figures > 0, at most {MAX_LATENCY_NS:g}, one per initiator, "
                        f"got {row}"
                    )
            for field in (
                "read_bandwidth_gb_s",
                "write_bandwidth_gb_s",
                "capacity_ratio",
            ):
                value = getattr(node, field)
                if value is not None and not 0 < value < math.inf:
                    raise ConfigError(
                        f"{path}: nodes[{i}].{field}: expected > 0, got {value}"
                    )
            if node.capacity_ratio > MAX_CAPACITY_RATIO:
                raise ConfigError(
                    f"{path}: nodes[{i}].capacity_ratio: expected at most "
                    f"{MAX_CAPACITY_RATIO:g}, got {node.capacity_ratio:g}"
                )
            for who in node.initiators:
                if not 0 <= who < len(self.initiators):
                    raise ConfigError(
                        f"{path}: nodes[{i}].initiators: expected 0 to "
                        f"{len(self.initiators) - 1}, got {who}"
                    )
        self._check_order(path, len(tiers))
        if not 1 <= self.parallelism < math.inf:
            raise ConfigError(
                f"{path}: parallelism: expected >= 1, got {self.parallelism}"
            )
        for field in ("initiator_parallelism", "misses_in_flight"):
            row = getattr(self, field)
            if row is not None and (
                len(row) != len(self.initiators)
                or not all(1 <= figure < math.inf for figure in row)
            ):
                raise ConfigError(
                    f"{path}: {field}: expected {len(self.initiators)} figures >= 1,"
                    f" one per initiator, got {row}"
                )
        for field in ("reference_gib", "threads"):
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{path}: {field}: expected > 0, got {value}")
        if not 0 <= self.queue_share < math.inf:
            raise ConfigError(
                f"{path}: queue_share: expected >= 0, got {self.queue_share}"
            )
        self._check_background(path)
        for field in self.costs.__struct_fields__:
            value = getattr(self.costs, field)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{path}: costs.{field}: expected >= 0, got {value}")
        if self.expander is not None:
            at = min(max(0, self.expander.compressed), len(self.nodes) - 1)
            self.expander.check(
                path,
                [n.tier for n in self.nodes],
                min(self.nodes[at].read_latency_ns),
            )
        if self.hotness_unit is not None:
            self.hotness_unit.check(path, [n.tier for n in self.nodes])
        self.huge_pages.check(path)

    def _check_order(self, path: str, tiers: int) -> None:
        """Check that no tier is faster than the one above it.

        A tier may have less latency than one above that has more bandwidth: HBM
        answers no sooner than DRAM, and is the faster under load.
        """
        nearest = [
            min(
                (
                    (min(n.read_latency_ns), i)
                    for i, n in enumerate(self.nodes)
                    if n.tier == tier
                ),
            )
            for tier in range(tiers)
        ]
        for tier, (above, below) in enumerate(pairwise(nearest)):
            wide = self.nodes[above[1]].read_bandwidth_gb_s
            less = self.nodes[below[1]].read_bandwidth_gb_s
            wider = wide is not None and less is not None and wide > less
            if below[0] < above[0] and not wider:
                raise ConfigError(
                    f"{path}: nodes[{below[1]}]: tier {tier + 1} answers in "
                    f"{below[0]:g} ns, tier {tier} above it (nodes[{above[1]}]) in "
                    f"{above[0]:g} ns: expected tiers from fast to slow, unless the "
                    "slower one has more read_bandwidth_gb_s"
                )

    def _check_background(self, path: str) -> None:
        for i, traffic in enumerate(self.background):
            where = f"{path}: background[{i}]"
            traffic.check(where)
            if traffic.node >= len(self.nodes):
                raise ConfigError(
                    f"{where}.node: expected 0 to {len(self.nodes) - 1}, "
                    f"got {traffic.node}"
                )
            if self.nodes[traffic.node].read_bandwidth_gb_s is None:
                raise ConfigError(
                    f"{where}: nodes[{traffic.node}] has no read_bandwidth_gb_s, "
                    "so that no traffic would load it"
                )

    def parallelism_of(self, initiator: int, stated: float | None) -> float:
        """Return the misses that accesses of an initiator have in flight.

        Args:
            initiator: Who makes them.
            stated: What their stream has, where it says so.
        """
        usual = self.parallelism
        if self.initiator_parallelism is not None:
            usual = self.initiator_parallelism[initiator]
        own = usual if stated is None else stated
        if self.misses_in_flight is None:
            return own
        return min(own, self.misses_in_flight[initiator])

    def capacities(self, pages: int, fast_ratio: float) -> list[int]:
        """Return pages per node; the last tier holds the whole footprint."""
        last = max(n.tier for n in self.nodes)
        fast = [n for n in self.nodes if n.tier == 0]
        room = share_of(pages, fast_ratio)
        total_share = sum(n.capacity_ratio for n in fast)
        out = []
        given = 0
        for node in self.nodes:
            if node.tier == last and last > 0:
                out.append(pages)
            elif node.tier == 0:
                if node is fast[-1]:
                    out.append(room - given)
                else:
                    given += int(room * node.capacity_ratio / total_share)
                    out.append(int(room * node.capacity_ratio / total_share))
            else:
                out.append(int(room * node.capacity_ratio))
        return out

    def topology(self, capacities: list[int]) -> Topology:
        """Return the machine as a topology; every figure is configured."""
        ranks = sorted({n.tier for n in self.nodes})
        said = Source.CONFIGURED

        def bandwidth(value: float | None) -> Figure | None:
            return None if value is None else Figure(value * 1e9 / MIB, said)

        nodes = tuple(
            Node(i, n.kind, said, capacities[i] * PAGE_BYTES, tuple(n.initiators))
            for i, n in enumerate(self.nodes)
        )
        tiers = tuple(
            Tier(
                rank,
                None,
                tuple(i for i, n in enumerate(self.nodes) if n.tier == rank),
                said,
            )
            for rank in ranks
        )
        homes = {who: i for i, n in enumerate(self.nodes) for who in n.initiators}
        initiators = tuple(
            Initiator(
                i,
                kind,
                homes.get(i),
                f"{kind.value}{i}",
                self.parallelism
                if self.uniform_stall
                else self.parallelism_of(i, None),
            )
            for i, kind in enumerate(self.initiators)
        )
        performance = tuple(
            AccessPerformance(
                who.id,
                i,
                Figure(n.read_latency_ns[who.id], said),
                Figure((n.write_latency_ns or n.read_latency_ns)[who.id], said),
                bandwidth(n.read_bandwidth_gb_s),
                bandwidth(n.write_bandwidth_gb_s or n.read_bandwidth_gb_s),
            )
            for who in initiators
            for i, n in enumerate(self.nodes)
        )
        return Topology(nodes, tiers, initiators, performance, {})


def share_of(pages: int, ratio: float) -> int:
    """Return the whole pages in a share, as of the fraction that a person wrote.

    >>> share_of(100, 0.29), int(100 * 0.29)
    (29, 28)
    """
    exact = Fraction(ratio).limit_denominator(1_000_000)
    return int(pages * (exact if float(exact) == ratio else Fraction(ratio)))


def load_machine(name: str) -> MachineSpec:
    """Return a built-in machine, one from a TOML file or from a recorded tree.

    Raises:
        UsageError: No such machine.
        ConfigError: The file does not describe one.
        NotPermittedError: It may not be read.
    """
    if name in BUILT_IN:
        file = resources.files("isotherm.machine.sim").joinpath(f"machines/{name}.toml")
        return parse_machine(file.read_text(encoding="utf-8"), f"{name}.toml")
    path = Path(name)
    try:
        if path.suffix == ".toml" and path.is_file():
            return parse_machine(path.read_text(encoding="utf-8"), name)
        there = path.exists()
    except OSError as error:
        raise file_error(path, error, "cannot be read", ConfigError) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected TOML in UTF-8: {error}") from error
    if there:
        return from_topology(path)
    raise UsageError(
        f"machine: no such machine {name!r}{did_you_mean(name, BUILT_IN)}",
        hint="isotherm simulate --list, or give a TOML file or a recorded topology",
    )


def parse_machine(text: str, path: str) -> MachineSpec:
    """Return the machine that a TOML text describes.

    Raises:
        ConfigError: With the path of the field and what was expected.
    """
    try:
        spec = msgspec.convert(tomllib.loads(text), MachineSpec)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from error
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").removeprefix(".") or "top level"
        what = f"{what[:1].lower()}{what[1:]}{_known_kinds(what, field)}"
        raise ConfigError(f"{path}: {field}: {what}") from error
    spec.check(path)
    return spec


def _known_kinds(what: str, field: str) -> str:
    """Return what a field that names a kind may be, where that is what is wrong."""
    found = re.fullmatch(r"Invalid enum value '(.*)'", what)
    if found is None:
        return ""
    known = [str(k) for k in (MemoryKind if "kind" in field else InitiatorKind)]
    return f", expected one of {', '.join(known)}{did_you_mean(found[1], known)}"


def from_topology(path: Path) -> MachineSpec:
    """Return a machine with the tiers and latencies of a recorded topology.

    Nodes with a known read latency take part, each as its nearest CPU sees it
    (its nearest initiator where no CPU is known): one initiator stands for all.
    Figures that the firmware left out are taken from ``PATH.overrides.toml`` where
    that file lies beside the tree (docs/reference/topology.md has its schema).

    Raises:
        UsageError: The tree gives no latency for two tiers, or has too many nodes.
        ConfigError: The overrides are malformed.
        TopologyError: The tree cannot be read.
    """
    from isotherm.topology.sysfs import read_topology  # noqa: PLC0415  # only here

    topology = read_topology(path)
    beside = path.with_name(path.name + OVERRIDES_SUFFIX)
    if beside.is_file():
        from isotherm.topology.override import (  # noqa: PLC0415  # only here
            apply_overrides,
            read_overrides,
        )

        topology = apply_overrides(topology, read_overrides(beside), beside)
    cpus = {i.id for i in topology.initiators if i.kind is InitiatorKind.CPU}
    by_id = {n.id: n for n in topology.nodes}
    tiers = []
    for tier in topology.tiers:
        found = [_nearest(topology, node, cpus) for node in tier.nodes]
        if rows := [row for row in found if row is not None]:
            tiers.append(rows)
    nodes = [
        _node_spec(by_id[row.node], row, rank, by_id[tiers[0][0].node])
        for rank, rows in enumerate(tiers)
        for row in rows
    ]
    if len(tiers) < 2:
        raise UsageError(
            f"{path}: expected read latencies for at least two tiers, got {len(tiers)}",
            hint=f"give them in {beside}; docs/reference/topology.md has its schema",
        )
    if len(nodes) > MAX_NODES:
        raise UsageError(
            f"{path}: expected at most {MAX_NODES} nodes with latencies, "
            f"got {len(nodes)}"
        )
    spec = MachineSpec(path.name, f"recorded topology {path.name}", nodes)
    spec.check(str(path))
    return spec


def _nearest(topology: Topology, node: int, cpus: set[int]) -> AccessPerformance | None:
    """Return the lowest known read latency of a node, a CPU's where one is known."""
    rows = [p for p in topology.performance if p.node == node and p.read_latency_ns]
    rows = [p for p in rows if p.initiator in cpus] or rows
    return min(rows, key=_read_ns, default=None)


def _read_ns(row: AccessPerformance) -> float:
    return row.read_latency_ns.value if row.read_latency_ns else math.inf


def _node_spec(node: Node, row: AccessPerformance, rank: int, first: Node) -> NodeSpec:
    """Return a node as its nearest initiator sees it; sizes relative to the first."""
    wide, write = row.read_bandwidth_mib_s, row.write_bandwidth_mib_s
    return NodeSpec(
        kind=node.kind,
        tier=rank,
        read_latency_ns=[_read_ns(row)],
        write_latency_ns=None
        if row.write_latency_ns is None
        else [row.write_latency_ns.value],
        read_bandwidth_gb_s=None if wide is None else wide.value * MIB / 1e9,
        write_bandwidth_gb_s=None if write is None else write.value * MIB / 1e9,
        capacity_ratio=node.capacity_bytes / first.capacity_bytes
        if node.capacity_bytes and first.capacity_bytes
        else 1.0,
        initiators=[0] if node is first else [],
    )

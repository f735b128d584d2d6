"""A topology as text for people and as one JSON document for programs."""

import textwrap
from collections.abc import Mapping, Sequence

from isotherm.core.units import render_bytes
from isotherm.topology.interleave import NodeWeight, commands
from isotherm.topology.model import AccessPerformance, Figure, Node, Tier, Topology
from isotherm.topology.parse import render_list
from isotherm.topology.performance import FIGURES

WIDTH = 80


def as_json(topology: Topology) -> dict[str, object]:
    """Return a topology as plain dicts and lists, in bytes, ns and MiB/s.

    Keys are ``nodes``, ``tiers`` (fastest first), ``initiators``, ``performance``,
    ``distances``, ``devices`` and ``notes``. What nobody says is null; every figure
    has its source beside it.
    """
    names = {initiator.id: initiator.name for initiator in topology.initiators}
    return {
        "nodes": [_node_json(topology, node) for node in topology.nodes],
        "tiers": [_tier_json(tier) for tier in topology.tiers],
        "initiators": [
            {"id": i.id, "name": i.name, "kind": i.kind.value, "node": i.node}
            for i in topology.initiators
        ],
        "performance": [
            {
                "initiator": row.initiator,
                "initiator_name": names.get(row.initiator),
                "node": row.node,
            }
            | {name: _figure_json(getattr(row, name)) for name in FIGURES}
            for row in topology.performance
        ],
        "distances": {
            str(source): {str(to): value for to, value in row.items()}
            for source, row in topology.distances.items()
        },
        "devices": [
            {
                "name": device.name,
                "kind": device.kind.value,
                "node": device.node,
                "size_bytes": device.size_bytes,
                "driver": device.driver or None,
            }
            for device in topology.devices
        ],
        "notes": list(topology.notes),
    }


def _node_json(topology: Topology, node: Node) -> dict[str, object]:
    ranks = [r for r, tier in enumerate(topology.tiers) if node.id in tier.nodes]
    return {
        "id": node.id,
        "kind": node.kind.value,
        "kind_source": node.kind_source.value,
        "kind_evidence": node.kind_evidence,
        "capacity_bytes": node.capacity_bytes,
        "capacity_source": node.capacity_source.value,
        "cpus": list(node.cpus),
        "side_cache_bytes": node.side_cache_bytes,
        "label": node.label,
        "tier": ranks[0] if ranks else None,
    }


def _tier_json(tier: Tier) -> dict[str, object]:
    return {
        "id": tier.id,
        "adistance": tier.adistance,
        "nodes": list(tier.nodes),
        "source": tier.source.value,
        "evidence": tier.evidence,
    }


def _figure_json(figure: Figure | None) -> dict[str, object] | None:
    if figure is None:
        return None
    return {"value": figure.value, "source": figure.source.value}


def render_topology(topology: Topology) -> str:
    """Return a topology as text of at most 80 columns, ending in a newline."""
    parts = [_render_tiers(topology), _render_nodes(topology)]
    parts.append(_render_initiators(topology))
    if topology.performance:
        parts.append(_render_performance(topology))
    if topology.devices:
        parts.append(_render_devices(topology))
    if topology.notes:
        lines = [_wrap(note, "- ") for note in topology.notes]
        parts.append("\n".join(["notes", *lines]))
    return "\n\n".join(parts) + "\n"


def render_weights(
    weights: Sequence[NodeWeight], now: Mapping[int, int], *, auto: bool | None
) -> str:
    """Return weights of weighted interleaving as text.

    Args:
        weights: What the nodes' bandwidth gives.
        now: What the kernel has; empty: nothing.
        auto: Whether it sets them itself; None: it cannot, or nobody says.
    """
    rows = [
        (
            str(row.node),
            str(row.weight),
            str(now.get(row.node, "-")),
            "unknown" if row.bandwidth_mib_s is None else f"{row.bandwidth_mib_s:.0f}",
            "-" if row.source is None else row.source.value,
        )
        for row in weights
    ]
    head = ("node", "weight", "now", "MiB/s", "said by")
    lines = ["weighted interleave", _table(head, rows, "rrrrl")]
    if any(row.bandwidth_mib_s is None for row in weights):
        lines.append(
            "  a bandwidth is unknown: all alike (--overrides FILE.toml says it)"
        )
    elif not now:
        lines.append("  this kernel has no weights (Linux 6.9 has)")
    elif all(now.get(row.node) == row.weight for row in weights):
        lines.append("  the kernel has them so" + (", by itself" if auto else ""))
    else:
        lines += [f"  {line}" for line in commands(weights)]
    listed = ",".join(str(row.node) for row in weights)
    lines.append(f"  used by: numactl --weighted-interleave={listed} COMMAND")
    return "\n".join(lines) + "\n"


def _wrap(text: str, first: str) -> str:
    indent = " " * (2 + len(first))
    return textwrap.fill(
        text, WIDTH, initial_indent=f"  {first}", subsequent_indent=indent
    )


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: str) -> str:
    """Return aligned columns; ``right`` has an r for each one set to the right.

    The last column is cut where the line would pass 80 columns.
    """
    lines = [head, *rows]
    widths = [min(max(len(line[i]) for line in lines), 30) for i in range(len(head))]
    out: list[str] = []
    for line in lines:
        cells = [
            _clip(cell, width).rjust(width)
            if side == "r"
            else _clip(cell, width).ljust(width)
            for cell, width, side in zip(line, widths, right, strict=True)
        ]
        out.append(_clip("  " + "  ".join(cells).rstrip(), WIDTH))
    return "\n".join(out)


def _render_tiers(topology: Topology) -> str:
    lines = ["tiers, fastest first"]
    for rank, tier in enumerate(topology.tiers):
        kinds = sorted({n.kind.value for n in topology.nodes if n.id in tier.nodes})
        distance = "unknown" if tier.adistance is None else str(tier.adistance)
        noun = "node" if len(tier.nodes) == 1 else "nodes"
        head = f"{rank}: {noun} {render_list(tier.nodes)} ({', '.join(kinds)})"
        lines.append(_wrap(head, ""))
        what = f"memory_tier{tier.id}, adistance {distance}, {tier.source.value}: "
        lines.append(_wrap(what + tier.evidence, "   "))
    return "\n".join(lines)


def _render_nodes(topology: Topology) -> str:
    rows = [
        (
            str(node.id),
            node.kind.value,
            node.kind_source.value,
            "unknown"
            if node.capacity_bytes is None
            else render_bytes(node.capacity_bytes),
            _clip(render_list(node.cpus) or "-", 18),
            render_bytes(node.side_cache_bytes) if node.side_cache_bytes else "-",
            _clip(node.label or "-", 14),
        )
        for node in topology.nodes
    ]
    head = ("node", "kind", "said by", "capacity", "cpus", "side cache", "label")
    return "nodes\n" + _table(head, rows, "rllrlrl")


def _render_initiators(topology: Topology) -> str:
    rows = [
        (
            str(i.id),
            _clip(i.name, 20),
            i.kind.value,
            "-" if i.node is None else str(i.node),
        )
        for i in topology.initiators
    ]
    if not rows:
        return "initiators\n  none that the tree tells of"
    return "initiators\n" + _table(("id", "name", "kind", "node"), rows, "rllr")


def _render_performance(topology: Topology) -> str:
    names = {initiator.id: initiator.name for initiator in topology.initiators}
    rows = [
        (
            _clip(names.get(row.initiator, "?"), 12),
            str(row.node),
            _cell(row.read_latency_ns),
            _cell(row.write_latency_ns),
            _cell(row.read_bandwidth_mib_s),
            _cell(row.write_bandwidth_mib_s),
            _said_by(row),
        )
        for row in topology.performance
    ]
    head = (
        "from",
        "node",
        "read ns",
        "write ns",
        "read MiB/s",
        "write MiB/s",
        "said by",
    )
    return "performance, unloaded\n" + _table(head, rows, "lrrrrrl")


def _cell(figure: Figure | None) -> str:
    return "unknown" if figure is None else f"{figure.value:.10g}"


def _said_by(row: AccessPerformance) -> str:
    figures = [getattr(row, name) for name in FIGURES]
    said = dict.fromkeys(f.source.value for f in figures if f is not None)
    return "+".join(said) or "nobody"


def _render_devices(topology: Topology) -> str:
    rows = [
        (
            _clip(device.name, 16),
            device.kind.value,
            "unknown" if device.size_bytes is None else render_bytes(device.size_bytes),
            "-" if device.node is None else str(device.node),
            device.driver or "-",
        )
        for device in topology.devices
    ]
    head = ("device", "kind", "size", "node", "driver")
    return "DAX devices (kmem: serves as the node)\n" + _table(head, rows, "llrrl")

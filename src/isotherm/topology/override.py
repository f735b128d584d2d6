"""A TOML file that corrects, or replaces, what firmware says about a machine.

Every figure it gives has the source ``configured``; what it leaves out stays as it
was read. ``docs/reference/topology.md`` has the schema with examples.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from isotherm.core.errors import ConfigError, UsageError
from isotherm.core.files import file_error
from isotherm.core.units import parse_size
from isotherm.topology.adistance import tier_id
from isotherm.topology.kernel_tiers import is_kernels
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
from isotherm.topology.parse import MAX_CPUS, MAX_NODES, parse_list, render_list
from isotherm.topology.performance import FIGURES
from isotherm.topology.tiers import derive_tiers
from isotherm.topology.tree import shorten

NodeId = Annotated[int, msgspec.Meta(ge=0, lt=MAX_NODES)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Bytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 56)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]

#: What memory can be: beyond these the unit has slipped, or a digit.
LATENCY_NS: Final = (0.1, 1e9)
BANDWIDTH_MIB_S: Final = (0.1, 1e9)

EMPTY = Topology(nodes=(), tiers=(), initiators=(), performance=(), distances={})


class NodeOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[node]]``: what a node is; sizes in bytes or with a unit (``"64GiB"``)."""

    id: NodeId
    kind: MemoryKind | None = None
    capacity: Bytes | str | None = None
    side_cache: Bytes | str | None = None
    cpus: str | None = None
    label: Name | None = None


class InitiatorOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[initiator]]``: a known one to correct, or a new one to add."""

    name: Name
    kind: InitiatorKind | None = None
    node: NodeId | None = None


class PerformanceOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[performance]]``: what one initiator sees of one node, unloaded."""

    initiator: Name
    node: NodeId
    read_latency_ns: Positive | None = None
    write_latency_ns: Positive | None = None
    read_bandwidth_mib_s: Positive | None = None
    write_bandwidth_mib_s: Positive | None = None


class TierOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[tier]]``: one tier, fastest first; together they hold every node."""

    nodes: Annotated[list[NodeId], msgspec.Meta(min_length=1)]
    adistance: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        mode: ``correct`` starts from what was read, ``replace`` from nothing.
        node: Nodes; with ``replace`` each needs a kind and a capacity.
        initiator: Initiators, by name.
        performance: Figures, by initiator's name and node.
        tier: All tiers, fastest first; none keeps or derives them.
    """

    mode: Literal["correct", "replace"] = "correct"
    node: list[NodeOverride] = []
    initiator: list[InitiatorOverride] = []
    performance: list[PerformanceOverride] = []
    tier: list[TierOverride] = []


def read_overrides(path: Path) -> Overrides:
    """Return an overrides file, checked against its schema.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or has an unknown field or
            a value of the wrong type or range; the message names file and field.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Overrides)
    except OSError as error:
        raise file_error(path, error, "cannot be read", ConfigError) from error
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").removeprefix(".") or "top level"
        raise ConfigError(f"{path}: {field}: {_explain(what, field)}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected TOML: {shorten(_lower(str(error)))}"
        ) from error


#: Fields whose values are a list of words, by their place in the file.
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "mode": ("correct", "replace"),
    "node.kind": tuple(MemoryKind),
    "initiator.kind": tuple(InitiatorKind),
}


def _explain(what: str, field: str) -> str:
    """Return msgspec's complaint; of a wrong word with the words that are known."""
    words = _WORDS.get(re.sub(r"\[[^]]*\]", "", field))
    if words and what.startswith("Invalid enum value"):
        found = what.removeprefix("Invalid enum value ")
        return f"got {found}, expected one of {', '.join(words)}"
    return _lower(what)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def apply_overrides(
    topology: Topology | None, overrides: Overrides, path: Path
) -> Topology:
    """Return a topology with a person's word on top.

    Tiers given in the file win. Else, where figures or nodes change, tiers are
    derived again; the kernel's stay when only kinds, labels or sizes change.

    Args:
        topology: What was read; may be None with ``mode = "replace"``.
        overrides: From :func:`read_overrides`.
        path: The file, for messages.

    Raises:
        ConfigError: The file names a node or an initiator that is not there, names
            one twice, or its tiers do not hold each node with memory once.
    """
    base = EMPTY if overrides.mode == "replace" or topology is None else topology
    nodes = _nodes(base, overrides, path)
    ids = {node.id for node in nodes}
    initiators = _initiators(base, nodes, overrides, ids, path)
    performance = _performance(base, initiators, overrides, ids, path)
    notes = list(base.notes)
    if overrides.tier:
        tiers = _tiers(overrides, nodes, path)
    elif _keeps_tiers(base, nodes, performance, initiators):
        tiers = base.tiers
    else:
        tiers, more = derive_tiers(nodes, initiators, performance, base.distances)
        notes += more
        if any(is_kernels(tier) for tier in base.tiers):
            notes.append(f"{path}: tiers derived again, as figures were changed")
    return dataclasses.replace(
        base,
        nodes=nodes,
        tiers=tiers,
        initiators=initiators,
        performance=performance,
        notes=tuple(notes),
    )


def _keeps_tiers(
    base: Topology,
    nodes: tuple[Node, ...],
    performance: tuple[AccessPerformance, ...],
    initiators: tuple[Initiator, ...],
) -> bool:
    """Return whether the base's tiers still stand."""
    held = [node.id for node in nodes if node.has_memory]
    if held != [node.id for node in base.nodes if node.has_memory] or not base.tiers:
        return False
    if performance != base.performance:
        return False
    kinds = [node.kind for node in nodes] == [node.kind for node in base.nodes]
    kernels = all(is_kernels(tier) for tier in base.tiers)
    return kernels or (kinds and initiators == base.initiators)


T = TypeVar("T")


def _once(rows: list[T], keys: list[object], field: str, path: Path) -> None:
    """Check that no key comes twice."""
    for i, key in enumerate(keys):
        if key in keys[:i]:
            first = keys.index(key)
            raise ConfigError(
                f"{path}: {field}[{i}]: found again what {field}[{first}] names"
            )


def _size(value: int | str | None, field: str, path: Path) -> int | None:
    if not isinstance(value, str):
        return value
    try:
        size = parse_size(value)
    except (UsageError, OverflowError) as error:
        raise ConfigError(
            f"{path}: {field}: expected bytes or a size such as '64GiB', got "
            f"{shorten(value)!r}"
        ) from error
    if size >= 1 << 56:
        raise ConfigError(
            f"{path}: {field}: expected less than 64 PiB, got {shorten(value)!r}"
        )
    return size


def _nodes(base: Topology, overrides: Overrides, path: Path) -> tuple[Node, ...]:
    nodes = {node.id: node for node in base.nodes}
    _once(overrides.node, [row.id for row in overrides.node], "node", path)
    for i, row in enumerate(overrides.node):
        field = f"node[{i}]"
        capacity = _size(row.capacity, f"{field}.capacity", path)
        cache = _size(row.side_cache, f"{field}.side_cache", path)
        node = nodes.get(row.id)
        if node is None:
            if overrides.mode == "correct":
                raise _absent(path, f"{field}.id", row.id, nodes)
            if row.kind is None or capacity is None:
                lack = "kind" if row.kind is None else "capacity"
                raise ConfigError(
                    f"{path}: {field}: expected a {lack} in a replaced machine"
                )
            node = Node(row.id, row.kind, Source.CONFIGURED, capacity)
        changes: dict[str, object] = {}
        if row.kind is not None:
            changes |= {"kind": row.kind, "kind_source": Source.CONFIGURED}
            changes["kind_evidence"] = f"configured in {path.name}"
        if capacity is not None:
            changes |= {
                "capacity_bytes": capacity,
                "capacity_source": Source.CONFIGURED,
            }
        if cache is not None:
            changes["side_cache_bytes"] = cache
        if row.label is not None:
            changes["label"] = row.label
        if row.cpus is not None:
            try:
                changes["cpus"] = parse_list(row.cpus, MAX_CPUS)
            except ValueError as error:
                raise ConfigError(f"{path}: {field}.cpus: expected {error}") from error
            if not changes["cpus"] and not node.cpus:
                raise ConfigError(
                    f"{path}: {field}.cpus: expected a list such as 0-3,8; empty it "
                    f"takes CPUs away, and node {row.id} has none"
                )
        nodes[row.id] = dataclasses.replace(node, **changes)  # type: ignore[arg-type]  # fields of Node
    _one_node_a_cpu(nodes, overrides, path)
    if not nodes:
        raise ConfigError(f"{path}: node: expected at least one in a replaced machine")
    return tuple(nodes[number] for number in sorted(nodes))


def _one_node_a_cpu(
    nodes: Mapping[int, Node], overrides: Overrides, path: Path
) -> None:
    """Check that no CPU that the file gives to a node is another one's as well."""
    for i, row in enumerate(overrides.node):
        if row.cpus is None:
            continue
        mine = set(nodes[row.id].cpus or ())
        for other in nodes.values():
            if other.id != row.id and (both := mine & set(other.cpus or ())):
                raise ConfigError(
                    f"{path}: node[{i}].cpus: found {render_list(tuple(sorted(both)))}"
                    f", which node {other.id} has, expected each CPU on one node"
                )


def _absent(path: Path, field: str, node: int, nodes: object) -> ConfigError:
    there = render_list(tuple(sorted(nodes)))  # type: ignore[call-overload]  # a set or dict of ids
    return ConfigError(f"{path}: {field}: found node {node}, expected one of {there}")


def _initiators(
    base: Topology,
    nodes: tuple[Node, ...],
    overrides: Overrides,
    ids: set[int],
    path: Path,
) -> tuple[Initiator, ...]:
    rows = {initiator.name: initiator for initiator in base.initiators}
    _once(overrides.initiator, [r.name for r in overrides.initiator], "initiator", path)
    with_row = {initiator.node for initiator in base.initiators}
    for node in nodes:
        # CPUs given in the file make their node an initiator, as read ones do.
        if node.cpus and node.id not in with_row:
            name = f"cpu{node.id}"
            rows.setdefault(
                name, Initiator(len(rows), InitiatorKind.CPU, node.id, name)
            )
    for i, row in enumerate(overrides.initiator):
        if row.node is not None and row.node not in ids:
            raise _absent(path, f"initiator[{i}].node", row.node, ids)
        old = rows.get(row.name)
        if old is None:
            if row.kind is None:
                raise ConfigError(
                    f"{path}: initiator[{i}].kind: expected cpu or gpu for the new "
                    f"initiator {row.name!r}"
                )
            rows[row.name] = Initiator(len(rows), row.kind, row.node, row.name)
        else:
            rows[row.name] = dataclasses.replace(
                old,
                kind=old.kind if row.kind is None else row.kind,
                node=old.node if row.node is None else row.node,
            )
    return tuple(sorted(rows.values(), key=lambda initiator: initiator.id))


def _performance(
    base: Topology,
    initiators: tuple[Initiator, ...],
    overrides: Overrides,
    ids: set[int],
    path: Path,
) -> tuple[AccessPerformance, ...]:
    by_name = {initiator.name: initiator.id for initiator in initiators}
    rows = {(row.initiator, row.node): row for row in base.performance}
    keys: list[object] = [(r.initiator, r.node) for r in overrides.performance]
    _once(overrides.performance, keys, "performance", path)
    for i, row in enumerate(overrides.performance):
        field = f"performance[{i}]"
        if row.initiator not in by_name:
            there = ", ".join(by_name) or "an [[initiator]]"
            raise ConfigError(
                f"{path}: {field}.initiator: found {shorten(row.initiator)!r}, "
                f"expected one of {there}"
            )
        if row.node not in ids:
            raise _absent(path, f"{field}.node", row.node, ids)
        key = (by_name[row.initiator], row.node)
        changes: dict[str, Figure] = {}
        for name in FIGURES:
            value: float | None = getattr(row, name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise ConfigError(
                    f"{path}: {field}.{name}: expected a finite number, got {value}"
                )
            low, high = LATENCY_NS if name.endswith("_ns") else BANDWIDTH_MIB_S
            if not low <= value <= high:
                raise ConfigError(
                    f"{path}: {field}.{name}: expected from {low:g} to {high:g}, "
                    f"got {value:g}"
                )
            changes[name] = Figure(value, Source.CONFIGURED)
        old = rows.get(key, AccessPerformance(*key))
        rows[key] = dataclasses.replace(old, **changes)  # type: ignore[arg-type]  # figures only
    return tuple(rows[key] for key in sorted(rows))


def _tiers(
    overrides: Overrides, nodes: tuple[Node, ...], path: Path
) -> tuple[Tier, ...]:
    named = [node for row in overrides.tier for node in row.nodes]
    held = [node.id for node in nodes if node.has_memory]
    if sorted(named) != held:
        raise ConfigError(
            f"{path}: tier: found nodes {render_list(tuple(sorted(named))) or 'none'}, "
            f"expected each of {render_list(tuple(held))} once"
        )
    tiers: list[Tier] = []
    for i, row in enumerate(overrides.tier):
        least = tiers[-1].id + 1 if tiers else 0
        number = least if row.adistance is None else tier_id(row.adistance)
        if number < least:
            raise ConfigError(
                f"{path}: tier[{i}].adistance: found {row.adistance}, expected "
                f"{least * 128} or more, as tiers go from fast to slow"
            )
        members = tuple(sorted(row.nodes))
        why = f"configured in {path.name}"
        tiers.append(Tier(number, row.adistance, members, Source.CONFIGURED, why))
    return tuple(tiers)

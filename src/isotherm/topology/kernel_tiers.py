"""The kernel's own tiers, where a tree has them, with what they leave open."""

from collections.abc import Mapping

from isotherm.topology.model import (
    AccessPerformance,
    Initiator,
    MemoryKind,
    Node,
    Source,
    Tier,
)
from isotherm.topology.parse import MAX_NODES, parse_list, render_list
from isotherm.topology.tiers import Place, derive_tiers, place_by_performance
from isotherm.topology.tree import Tree

_TIERING = "sys/devices/virtual/memory_tiering"
_KERNELS = "the kernel's memory_tier"


def is_kernels(tier: Tier) -> bool:
    """Return whether a tier is the kernel's own, not derived."""
    return tier.evidence.startswith(_KERNELS)


def read_tiers(
    tree: Tree,
    nodes: tuple[Node, ...],
    initiators: tuple[Initiator, ...],
    performance: tuple[AccessPerformance, ...],
    distances: Mapping[int, Mapping[int, int]],
) -> tuple[Tier, ...]:
    """Return tiers, fastest first; every node with memory is in exactly one.

    The kernel's (Linux 6.1 and later) where they name every node with memory once,
    else derived ones. Where firmware's figures speak against the kernel's grouping
    a note says so.
    """
    derived, notes = derive_tiers(nodes, initiators, performance, distances)
    held = frozenset(node.id for node in nodes if node.has_memory)
    lists = _read_lists(tree)
    if not lists or not _complete(tree, lists, held):
        tree.notes.extend(notes)
        return derived
    places, _ = place_by_performance(
        [node for node in nodes if node.has_memory], initiators, performance
    )
    tiers = tuple(
        Tier(
            number,
            _nearest(number, members, places),
            members,
            Source.FIRMWARE,
            f"{_KERNELS}{number}",
        )
        for number, members in sorted(lists.items())
    )
    _note_doubts(tree, tiers, derived, nodes, places)
    return tiers


def _note_doubts(
    tree: Tree,
    tiers: tuple[Tier, ...],
    derived: tuple[Tier, ...],
    nodes: tuple[Node, ...],
    places: Mapping[int, Place],
) -> None:
    """Note where figures, or else kinds, speak against the kernel's grouping."""
    settle = "[[tier]] in an overrides file settles it"
    held = [node.id for node in nodes if node.has_memory]
    grouped = [tier.nodes for tier in tiers]
    if all(n in places and places[n].adistance is not None for n in held):
        if grouped != [tier.nodes for tier in derived]:
            ours = " > ".join(f"{{{render_list(tier.nodes)}}}" for tier in derived)
            theirs = " > ".join(f"{{{render_list(members)}}}" for members in grouped)
            tree.notes.append(
                f"tiers: the kernel has {theirs}, firmware's figures say {ours}; "
                + settle
            )
        return
    for tier in tiers:
        kinds = {n.kind.value for n in nodes if n.id in tier.nodes}
        kinds.discard(MemoryKind.UNKNOWN.value)
        if len(kinds) > 1:
            tree.notes.append(
                f"tiers: the kernel's memory_tier{tier.id} holds "
                f"{' and '.join(sorted(kinds))} alike; {settle}"
            )


def _read_lists(tree: Tree) -> dict[int, tuple[int, ...]]:
    """Return the kernel's tiers by number; what cannot be read is noted."""
    lists: dict[int, tuple[int, ...]] = {}
    for name in tree.list(_TIERING, "memory_tier[0-9]*"):
        number = name.removeprefix("memory_tier")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            continue
        path = f"{_TIERING}/{name}/nodelist"
        # Linux 6.1 names the attribute nodelist; the drafts before it, nodes.
        text = tree.read(path)
        if text is None:
            tree.note(path, "nothing", "the nodes of the tier")
            continue
        try:
            lists[int(number)] = parse_list(text, MAX_NODES)
        except ValueError as error:
            tree.note(path, repr(text), str(error))
    return {number: members for number, members in lists.items() if members}


def _complete(
    tree: Tree, lists: Mapping[int, tuple[int, ...]], held: frozenset[int]
) -> bool:
    """Return whether the kernel's tiers name each node with memory exactly once."""
    named = [node for members in lists.values() for node in members]
    if sorted(named) == sorted(held):
        return True
    found = "nodes " + render_list(tuple(sorted(named)))
    expected = f"each of {render_list(tuple(sorted(held)))} once; tiers are derived"
    tree.note(_TIERING, found, expected)
    return False


def _nearest(
    number: int, members: tuple[int, ...], places: Mapping[int, Place]
) -> int | None:
    """Return the adistance of a tier's nearest node if ours agrees with the kernel."""
    known = [places[n].adistance for n in members if n in places]
    full = [value for value in known if value is not None]
    if len(full) != len(members) or any(places[n].tier != number for n in members):
        return None
    return min(full)

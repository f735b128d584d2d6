"""The nodes of a host as they are now: they come and go while it runs."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from isotherm.core.errors import UnsupportedError
from isotherm.machine.linux.latency import Latencies, derive_latencies
from isotherm.machine.linux.pagemap import FrameNodes, frames_visible
from isotherm.machine.linux.usage import SwapArea, UsageReader, read_compressed_swap
from isotherm.machine.protocol import Usage
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology
from isotherm.topology.parse import MAX_NODES, parse_list
from isotherm.topology.sysfs import read_topology

#: Placement is a byte: 255 is no memory, 254 a frame whose node is not known.
MOST_NODES: Final = 250

_NODES: Final = "sys/devices/system/node"
_TIERS: Final = "sys/devices/virtual/memory_tiering"


class HostNodes:
    """Topology, use and latencies of a host, read again when nodes come or go.

    Nodes that may come, as the kernel's list of possible nodes says, stand in the
    topology from the start, without memory and in no tier: so the ids of nodes,
    and the width of what is indexed by them, stay as they are.

    Swap that stays in memory (zram, zswap) is a last tier with a node of its own,
    numbered after all possible ones.

    Args:
        root: ``/``, or a recorded tree.
        read: Reads the topology, with corrections if there are any; None: as the
            kernel says it.
        compressed: Whether compressed swap is a tier; None: if there is any.

    Raises:
        TopologyError: The tree does not say which nodes there are.
        UnsupportedError: Compressed swap was asked for, and there is none.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        read: Callable[[], Topology] | None = None,
        *,
        compressed: bool | None = None,
    ) -> None:
        self._root = root
        self._read = read or (lambda: read_topology(root))
        self._compressed = compressed
        self._usage = UsageReader(root)
        self._mark: tuple[str, ...] = ()
        self._stale = False
        self._swap: SwapArea | None = None
        self.topology: Topology
        self.latencies: Latencies
        #: Nodes of frames; None where frames cannot be seen.
        self.frames: FrameNodes | None = None
        self._sees_frames = frames_visible()
        self._reread()
        if compressed and self._swap is None:
            raise UnsupportedError(
                "compressed tier: found no swap on zram, and zswap off",
                hint="modprobe zram; zramctl -f -s 4G -a lz4; mkswap, swapon -p 100",
            )

    @property
    def swap_node(self) -> int | None:
        """The pseudo node of compressed swap, None if that is no tier."""
        return None if self._swap is None else self._width

    @property
    def memory_nodes(self) -> tuple[int, ...]:
        """Nodes that have memory now, ascending; the pseudo node is none of them."""
        swap = self.swap_node
        held = {n.id for n in self.topology.nodes if n.has_memory}
        return tuple(sorted(held - {swap}))

    def refresh(self) -> bool:
        """See whether nodes have come or gone; return whether anything changed."""
        mark = self._read_mark()
        swap = self._read_swap()
        same_swap = _shape(swap) == _shape(self._swap)
        if mark == self._mark and same_swap and not self._stale:
            return False
        self._reread()
        return True

    def usage(self) -> Usage:
        """Return use and watermarks, columns of possible nodes and the pseudo node."""
        if self._swap is not None:
            # Its name and size change in ``refresh`` alone.
            used = (self._read_swap() or self._swap).used_pages
            self._swap = dataclasses.replace(self._swap, used_pages=used)
        swap = None if self._swap is None else (self._width, self._swap)
        usage = self._usage.read(self.memory_nodes, self._width, swap)
        # Blocks of a node come one after another: its size, and the frames it has.
        self._stale |= self._usage.sizes_changed
        return usage

    # -- reading ----------------------------------------------------------

    def _reread(self) -> None:
        self._mark, self._swap = self._read_mark(), self._read_swap()
        self._stale = False
        seen = self._read()
        ids = [node.id for node in seen.nodes]
        possible = _read_possible(self._root) or (*ids,)
        self._width = max(*ids, *possible, -1, -1) + 1
        if self._width > MOST_NODES:
            self._width = max(ids) + 1
            possible = (*ids,)
        if self._width > MOST_NODES:
            raise UnsupportedError(
                f"{self._root / _NODES}: found node {max(ids)}, expected less than "
                f"{MOST_NODES}"
            )
        absent = [
            Node(n, MemoryKind.UNKNOWN, Source.ASSUMED, 0, kind_evidence="not online")
            for n in possible
            if n not in ids
        ]
        nodes, tiers = [*seen.nodes, *absent], [*seen.tiers]
        if self._swap is not None:
            nodes.append(_pseudo_node(self._width, self._swap))
            tiers.append(_pseudo_tier(self._width, tiers, self._swap))
        self.topology = dataclasses.replace(
            seen,
            nodes=tuple(sorted(nodes, key=lambda node: node.id)),
            tiers=tuple(tiers),
        )
        width = self._width + (self._swap is not None)
        self.latencies = derive_latencies(self.topology, width)
        self._usage.reread_watermarks()
        self.frames = None
        if self._sees_frames:
            try:
                self.frames = FrameNodes(self._root)
            except UnsupportedError:
                self._sees_frames = False

    def _read_mark(self) -> tuple[str, ...]:
        """Return what differs when a node has come or gone, or a tier has changed."""
        texts = []
        for name in ("has_memory", "online"):
            try:
                texts.append((self._root / _NODES / name).read_text())
            except OSError:
                texts.append("")
        try:
            texts += sorted(os.listdir(self._root / _TIERS))  # noqa: PTH208  # names
        except OSError:
            texts.append("")
        return tuple(texts)

    def _read_swap(self) -> SwapArea | None:
        return None if self._compressed is False else read_compressed_swap(self._root)


def _shape(swap: SwapArea | None) -> tuple[str, int] | None:
    return None if swap is None else (swap.name, swap.size_pages)


def _read_possible(root: Path) -> tuple[int, ...]:
    try:
        text = (root / _NODES / "possible").read_text().strip()
        return parse_list(text, MAX_NODES)
    except (OSError, ValueError):
        return ()


def _pseudo_node(node: int, swap: SwapArea) -> Node:
    return Node(
        node,
        MemoryKind.COMPRESSED,
        Source.FIRMWARE,
        swap.size_pages * 4096,
        label=swap.name,
        kind_evidence="swap that is kept compressed in memory",
    )


def _pseudo_tier(node: int, tiers: list[Tier], swap: SwapArea) -> Tier:
    number = tiers[-1].id + 1 if tiers else 0
    return Tier(number, None, (node,), Source.ASSUMED, f"{swap.name}: after all memory")

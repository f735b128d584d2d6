"""Lookups in a B-tree: few hot inner nodes, skewed leaves, all scattered."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import kernel
from isotherm.workloads import spec
from isotherm.workloads.density import power
from isotherm.workloads.draw import MixtureStream
from isotherm.workloads.layout import scatter_pages
from isotherm.workloads.rng import generator, stream_key
from isotherm.workloads.stream import Generated
from isotherm.workloads.table import DrawTable, Part, build_table

#: Lookups made at a time: bounds the scratch memory.
BLOCK = 1 << 18


def level_sizes(pages: int, fanout: int) -> list[int]:
    """Return the nodes of each level, leaves first, that fill ``pages`` pages.

    The tree is as full as it can be: leaf l hangs below inner node l // fanout
    and so on up to one root. Adding levels to a few pages leaves some out:
    they become leaves.

    >>> level_sizes(32768, 128)
    [32511, 254, 2, 1]
    """
    leaves = max(1, pages * (fanout - 1) // fanout)
    while True:
        sizes = [leaves]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // fanout))
        if sum(sizes) <= pages or leaves == 1:
            return sizes
        leaves -= max(1, (sum(sizes) - pages) // 2)


def _walk_twin(
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    leaf: NDArray[np.uint32],
    update: NDArray[np.uint8],
    step: int,
    divisor: NDArray[np.uint32],
    base: NDArray[np.uint32],
    node_page: NDArray[np.uint32],
) -> None:
    levels = len(divisor)
    order = np.arange(step, step + len(page))
    lookup, level = order // levels, order % levels
    page[:] = node_page[base[level] + leaf[lookup] // divisor[level]]
    if len(write):
        write[:] = np.where(level == levels - 1, update[lookup], 0)


@kernel(_walk_twin)
def walk(
    page: NDArray[np.uint32],
    write: NDArray[np.uint8],
    leaf: NDArray[np.uint32],
    update: NDArray[np.uint8],
    step: int,
    divisor: NDArray[np.uint32],
    base: NDArray[np.uint32],
    node_page: NDArray[np.uint32],
) -> None:
    """Turn lookups into accesses: one node of each level, root first.

    Args:
        page: uint32[n], written.
        write: uint8[n], written; uint8[0] if unwanted.
        leaf: Leaf of each lookup, uint32.
        update: 1 where the lookup changes its leaf, uint8; uint8[0] if unwanted.
        step: Level at which the first lookup goes on, 0 = root.
        divisor: Leaves below a node of each level, root first, uint32.
        base: First node of each level in ``node_page``, root first, uint32.
        node_page: Page of each node, uint32.
    """
    levels = len(divisor)
    writes = len(write) > 0
    lookup = 0
    level = step
    for i in range(len(page)):
        page[i] = node_page[base[level] + leaf[lookup] // divisor[level]]
        level += 1
        last = level == levels
        if writes:
            write[i] = update[lookup] if last else 0
        if last:
            level = 0
            lookup += 1


class BTreeStream:
    """Lookups one after the other; leaves come from a mixture's draws."""

    def __init__(
        self,
        table: DrawTable,
        leaves: NDArray[np.uint32],
        node_page: NDArray[np.uint32],
        sizes: list[int],
        fanout: int,
        key: np.uint64,
        write_share: float | None,
    ) -> None:
        self._table, self._leaves, self._key = table, leaves, key
        self._node_page = node_page
        self._write_share = write_share
        levels = len(sizes)
        self._divisor = np.array(
            [fanout**level for level in range(levels - 1, -1, -1)], np.uint32
        )
        first = np.cumsum([0, *sizes[:-1]])
        self._base = first[::-1].astype(np.uint32)
        self._made = 0

    def tick(self, tick: int) -> None:
        """Change nothing: the tree stays as it is."""

    def fill(self, page: NDArray[np.uint32], write: NDArray[np.uint8] | None) -> None:
        """Write the next ``len(page)`` accesses."""
        levels = len(self._divisor)
        none = np.empty(0, np.uint8)
        at = 0
        while at < len(page):
            lookup, step = divmod(self._made, levels)
            count = min(BLOCK * levels - step, len(page) - at)
            lookups = -(-(step + count) // levels)
            leaf = np.empty(lookups, np.uint32)
            update = none if write is None else np.empty(lookups, np.uint8)
            draws = MixtureStream(
                self._table, self._leaves, self._key, self._write_share
            )
            draws.skip(lookup)
            draws.fill(leaf, None if write is None else update)
            walk(
                page[at : at + count],
                none if write is None else write[at : at + count],
                leaf,
                update,
                step,
                self._divisor,
                self._base,
                self._node_page,
            )
            at += count
            self._made += count


def build_btree(own: spec.BTree, name: str, pages: int, seed: int) -> Generated:
    """Return lookups of Zipf-distributed keys in a B-tree of one node a page.

    Keys are scrambled, so hot leaves lie anywhere in key order, and nodes lie
    anywhere in memory. ``write_share`` of the lookups change their leaf.
    """
    rng = generator(seed, "btree")
    sizes = level_sizes(pages, own.fanout)
    leaves = scatter_pages(sizes[0], rng)
    node_page = scatter_pages(pages, rng)
    key = stream_key(rng)
    table = build_table([Part(1.0, power(sizes[0], own.exponent))])
    return Generated(
        name,
        pages,
        lambda: BTreeStream(
            table, leaves, node_page, sizes, own.fanout, key, own.write_share
        ),
        writes=own.write_share is not None,
    )

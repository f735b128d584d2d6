"""What each node has, uses and keeps free: nodes' meminfo and /proc/zoneinfo."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.protocol import Usage

_ZONE = re.compile(r"^Node +([0-9]{1,4}), zone +(\S+)", re.ASCII)
_FIELD = re.compile(r"^ +(?:pages )?(free|min|low|high|promo|managed) +([0-9]+)$")
_MEMINFO = re.compile(
    r"^Node +[0-9]{1,4} (MemTotal|MemFree): +([0-9]{1,15}) kB", re.MULTILINE | re.ASCII
)
_SWAP = re.compile(r"^(\S+)\s+(\S+)\s+([0-9]+)\s+([0-9]+)\s", re.MULTILINE | re.ASCII)

#: A per-cpu list, which the zone's own fields come before.
_END_OF_FIELDS: Final = "  pagesets"


def parse_zoneinfo(text: str) -> dict[int, dict[str, int]]:
    """Return pages per node and field, summed over zones that have pages.

    Fields: managed, free, min, low, high and promo. Older kernels do not show promo
    here; it is then taken to be high, where reclaim ends without tiering.
    """
    nodes: dict[int, dict[str, int]] = {}
    zone: dict[str, int] = {}
    node = -1

    def close() -> None:
        if node >= 0 and zone.get("managed", 0):
            zone.setdefault("promo", zone.get("high", 0))
            into = nodes.setdefault(node, {})
            for name, pages in zone.items():
                into[name] = into.get(name, 0) + pages

    reading = False
    for line in text.splitlines():
        head = _ZONE.match(line)
        if head is not None:
            close()
            node, zone, reading = int(head[1]), {}, True
        elif line.startswith(_END_OF_FIELDS):
            reading = False
        elif reading:
            found = _FIELD.match(line)
            if found is not None:
                zone.setdefault(found[1], int(found[2]))
    close()
    return nodes


def parse_node_meminfo(text: str) -> tuple[int, int] | None:
    """Return managed and free pages of a node, None if the text does not say."""
    kib = {name: int(value) for name, value in _MEMINFO.findall(text)}
    if len(kib) != 2:
        return None
    page_kib = PAGE_BYTES // 1024
    return kib["MemTotal"] // page_kib, kib["MemFree"] // page_kib


@dataclass(frozen=True, slots=True)
class SwapArea:
    """One line of /proc/swaps.

    Attributes:
        name: The device or file.
        size_pages: What it holds.
        used_pages: What is in it.
    """

    name: str
    size_pages: int
    used_pages: int


def parse_swaps(text: str) -> tuple[SwapArea, ...]:
    r"""Return the swap areas of ``/proc/swaps``.

    >>> parse_swaps("Filename\tType\tSize\tUsed\tPriority\n"
    ...             "/dev/zram0 partition\t1048572\t8\t100\n")
    (SwapArea(name='/dev/zram0', size_pages=262143, used_pages=2),)
    """
    page_kib = PAGE_BYTES // 1024
    return tuple(
        SwapArea(name, int(size) // page_kib, int(used) // page_kib)
        for name, _, size, used in _SWAP.findall(text)
    )


def read_compressed_swap(root: Path) -> SwapArea | None:
    """Return the swap that keeps its pages in memory, as one area; None if none.

    That is zram, and any swap behind zswap. Other swap is not a tier: it is disks.
    """
    try:
        areas = parse_swaps((root / "proc/swaps").read_text())
    except OSError:
        return None
    if not _zswap_enabled(root):
        areas = tuple(a for a in areas if a.name.rsplit("/", 1)[-1].startswith("zram"))
    if not areas:
        return None
    return SwapArea(
        " ".join(area.name for area in areas),
        sum(area.size_pages for area in areas),
        sum(area.used_pages for area in areas),
    )


def _zswap_enabled(root: Path) -> bool:
    try:
        text = (root / "sys/module/zswap/parameters/enabled").read_text()
    except OSError:
        return False
    return text.strip() in ("Y", "1")


class UsageReader:
    """Reads the use of all nodes often, and their watermarks seldom.

    The nodes' own files hold no per-cpu lists: on a large machine they cost a
    thousandth of ``/proc/zoneinfo``, whose watermarks change only with sysctls and
    memory that comes or goes.

    Args:
        root: ``/``, or a recorded tree.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._marks: dict[int, dict[str, int]] = {}
        self._managed: dict[int, int] = {}
        #: Whether the last read found other sizes than the one before.
        self.sizes_changed = False
        self.reread_watermarks()

    def reread_watermarks(self) -> None:
        """Read ``/proc/zoneinfo`` again.

        Raises:
            UnsupportedError: It cannot be read.
        """
        path = self._root / "proc/zoneinfo"
        try:
            self._marks = parse_zoneinfo(path.read_text())
        except OSError as error:
            raise UnsupportedError(
                f"{path}: expected watermarks: {error.strerror}"
            ) from error

    def read(
        self, nodes: tuple[int, ...], width: int, swap: tuple[int, SwapArea] | None
    ) -> Usage:
        """Return the use of nodes, as columns.

        Args:
            nodes: Ids that count, below ``width``; the others have no capacity.
            width: Length of the columns, without the pseudo node.
            swap: The pseudo node of compressed memory and its area, if there is one.
        """
        columns = np.zeros((6, max(width, swap[0] + 1 if swap else 0)), np.int64)
        found: dict[int, int] = {}
        for node in nodes:
            total, free = self._read_node(node)
            found[node] = total
            marks = self._marks.get(node, {})
            low_high = [marks.get(name, 0) for name in ("min", "low", "high", "promo")]
            columns[:, node] = [total, total - free, *low_high]
        if swap:
            columns[:2, swap[0]] = [swap[1].size_pages, swap[1].used_pages]
        self.sizes_changed = bool(self._managed) and found != self._managed
        if self.sizes_changed:
            self.reread_watermarks()
        self._managed = found
        return Usage(*(_own(column) for column in columns))

    def _read_node(self, node: int) -> tuple[int, int]:
        """Return managed and free pages; none for a node that has just left."""
        path = self._root / f"sys/devices/system/node/node{node}/meminfo"
        try:
            known = parse_node_meminfo(path.read_text())
        except OSError:
            known = None
        if known is not None:
            return known
        marks = self._marks.get(node, {}) if self._single(node) else {}
        return marks.get("managed", 0), marks.get("free", 0)

    def _single(self, node: int) -> bool:
        """Return whether the tree has no node files at all: a kernel without NUMA."""
        base = self._root / "sys/devices/system/node"
        return node == 0 and not base.is_dir()


def _own(column: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(column)

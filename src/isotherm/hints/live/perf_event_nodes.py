"""Which node a physical address belongs to, from sysfs."""

import os
from pathlib import Path
from typing import Final

import numpy as np

from isotherm.records.data_source import PhysicalNodes

_NODES: Final = Path("sys/devices/system/node")
_BLOCK_SIZE: Final = Path("sys/devices/system/memory/block_size_bytes")


def read_physical_nodes(root: Path = Path("/")) -> PhysicalNodes:
    """Return the ranges of physical memory of every node.

    Each node's folder names its blocks of memory, ``memoryN``; their size is
    written in hexadecimal. Without hot-plug in the kernel there are none: then
    every address is of an unknown node.
    """
    try:
        size = int((root / _BLOCK_SIZE).read_text(), 16)
        names = os.listdir(root / _NODES)  # noqa: PTH208  # names only
    except (OSError, ValueError):
        return PhysicalNodes.of_blocks({}, 1)
    blocks = {}
    for name in names:
        if not (name.startswith("node") and name[4:].isdigit()):
            continue
        try:
            inside = os.listdir(root / _NODES / name)  # noqa: PTH208
        except OSError:
            continue
        numbers = [n[6:] for n in inside if n.startswith("memory")]
        found = sorted(int(n) for n in numbers if n.isdigit())
        blocks[int(name[4:])] = np.array(found, np.int64)
    return PhysicalNodes.of_blocks(blocks, size)

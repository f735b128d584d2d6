"""What page tables say in bulk: pagemap entries, PAGEMAP_SCAN, frames to nodes."""

import errno
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core import privileged
from isotherm.core.errors import UnsupportedError
from isotherm.core.kernels import kernel
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux import syscalls
from isotherm.machine.protocol import NOT_PRESENT

# Bits of an entry: Documentation/admin-guide/mm/pagemap.rst.
PRESENT: Final = np.uint64(1 << 63)
SWAPPED: Final = np.uint64(1 << 62)
FILE: Final = np.uint64(1 << 61)
EXCLUSIVE: Final = np.uint64(1 << 56)
SOFT_DIRTY: Final = np.uint64(1 << 55)
FRAME: Final = np.uint64((1 << 55) - 1)

# PAGEMAP_SCAN, from include/uapi/linux/fs.h; Linux 6.7 added it.
_PAGEMAP_SCAN: Final = 0xC0606610
PM_SCAN_WP_MATCHING: Final = 1 << 0
PM_SCAN_CHECK_WPASYNC: Final = 1 << 1
PAGE_IS_WPALLOWED: Final = 1 << 0
PAGE_IS_WRITTEN: Final = 1 << 1
PAGE_IS_FILE: Final = 1 << 2
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6
PAGE_IS_SOFT_DIRTY: Final = 1 << 7

# /proc/kpageflags: include/uapi/linux/kernel-page-flags.h.
KPF_HUGE: Final = 17
KPF_HWPOISON: Final = 19

_REGIONS: Final = 4096


@dataclass(frozen=True, slots=True)
class Scan:
    """What PAGEMAP_SCAN found.

    Attributes:
        regions: int64[n, 3]: first virtual page, one past the last, categories.
        error: 0, or the -errno that ended the walk early.
    """

    regions: NDArray[np.int64]
    error: int = 0


def scan(
    fd: int,
    start: int,
    end: int,
    *,
    any_of: int = 0,
    all_of: int = 0,
    inverted: int = 0,
    returned: int = 0,
    flags: int = 0,
) -> Scan:
    """Return the runs of virtual pages ``[start, end)`` that match categories.

    About 11 ns a page, less where tables are empty or pages huge.

    Args:
        fd: A pagemap descriptor.
        start: First virtual page.
        end: One past the last.
        any_of: ``PAGE_IS_*``: one of them.
        all_of: ``PAGE_IS_*``: all of them.
        inverted: Categories that count when they are not set.
        returned: Categories to return; 0: those asked for.
        flags: ``PM_SCAN_*``.
    """
    found: list[NDArray[np.int64]] = []
    regions = np.empty((_REGIONS, 3), np.uint64)
    at, stop = start * PAGE_BYTES, end * PAGE_BYTES
    while at < stop:
        argument = np.array(
            [
                96,
                flags,
                at,
                stop,
                0,
                regions.ctypes.data,
                len(regions),
                0,
                inverted,
                all_of,
                any_of,
                returned or (any_of | all_of),
            ],
            np.uint64,
        )
        result = syscalls.ioctl(fd, _PAGEMAP_SCAN, argument)
        if result < 0:
            return Scan(_pages_of(found), result)
        if result:
            found.append(regions[:result].astype(np.int64))
        if result < len(regions):
            # The walk is over, though walk_end may be a border before (Linux 6.18).
            break
        at = max(int(argument[4]), int(regions[-1, 1]))
    return Scan(_pages_of(found))


def _pages_of(found: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if not found:
        return np.empty((0, 3), np.int64)
    regions = np.concatenate(found)
    regions[:, :2] //= PAGE_BYTES
    return regions


def _open_own() -> int:
    """Return a descriptor of our own pagemap, with frames where anybody sees them."""
    asked = privileged.broker()
    if asked is not None:
        return asked.own_pagemap()
    return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def can_scan() -> bool:
    """Return whether the kernel knows PAGEMAP_SCAN."""
    try:
        fd = _open_own()
    except OSError:
        return False
    try:
        return scan(fd, 0, 16, any_of=PAGE_IS_PRESENT).error == 0
    finally:
        os.close(fd)


#: Swap types that are swap areas; above them stand entries for migration, broken
#: frames and device memory (MAX_SWAPFILES in include/linux/swap.h, at its least).
LEAST_SPECIAL_TYPE: Final = 23
_SWAP_TYPE: Final = 31
_UNKNOWN: Final = 254


def _nodes_of_entries_numpy(
    entries: NDArray[np.uint64],
    node_of_block: NDArray[np.uint8],
    shift: int,
    zero: int,
    swap_node: int,
    out: NDArray[np.uint8],
) -> None:
    frame = entries & FRAME
    block = np.minimum(frame >> np.uint64(shift), np.uint64(len(node_of_block) - 1))
    out[:] = node_of_block[block.astype(np.int64)]
    out[frame == 0] = _UNKNOWN
    if zero:
        out[frame == zero] = NOT_PRESENT
    absent = (entries & PRESENT) == 0
    out[absent] = NOT_PRESENT
    swapped = absent & ((entries & SWAPPED) != 0)
    swapped &= (entries & np.uint64(_SWAP_TYPE)) < LEAST_SPECIAL_TYPE
    out[swapped] = swap_node


@kernel(twin=_nodes_of_entries_numpy)
def nodes_of_entries(
    entries: NDArray[np.uint64],
    node_of_block: NDArray[np.uint8],
    shift: int,
    zero: int,
    swap_node: int,
    out: NDArray[np.uint8],
) -> None:
    """Write the node of each pagemap entry; see ``FrameNodes.placement``.

    Entries of migration, broken frames and device memory look swapped out; they
    are no memory.
    """
    last = len(node_of_block) - 1
    for i in range(len(entries)):
        entry = entries[i]
        frame = np.int64(entry & np.uint64(0x7FFFFFFFFFFFFF))
        if (entry >> np.uint64(63)) & np.uint64(1):
            if frame == 0:
                out[i] = 254
            elif frame == zero:
                out[i] = 255
            else:
                block = min(frame >> shift, np.int64(last))
                out[i] = node_of_block[block]
        elif (entry >> np.uint64(62)) & np.uint64(1) and (frame & 31) < 23:
            out[i] = swap_node
        else:
            out[i] = 255


class FrameNodes:
    """Which node a frame is on, from the memory blocks of sysfs.

    A block (128 MiB to 2 GiB) belongs to a node; one that two nodes share, and a
    frame beyond all blocks, has none that is known.

    Args:
        root: ``/``, or a recorded tree.

    Raises:
        UnsupportedError: The tree has no memory blocks.
    """

    #: No node, or not known.
    UNKNOWN: Final = _UNKNOWN

    def __init__(self, root: Path = Path("/")) -> None:
        base = root / "sys/devices/system"
        try:
            size = int((base / "memory/block_size_bytes").read_text(), 16)
            nodes = sorted(p for p in (base / "node").iterdir() if _NODE.match(p.name))
            pairs = [
                (int(block[6:]), int(node.name[4:]))
                for node in nodes
                for block in os.listdir(node)  # noqa: PTH208  # names
                if _BLOCK.match(block)
            ]
        except (OSError, ValueError) as error:
            raise UnsupportedError(
                f"{base}/memory: {error}: expected memory blocks",
                hint="a kernel with CONFIG_MEMORY_HOTPLUG",
            ) from error
        if not pairs:
            raise UnsupportedError(f"{base}/node: no memory block in any node")
        #: Frames of one block: a power of two.
        self.block_frames = size // PAGE_BYTES
        last = max(block for block, _ in pairs)
        self._node = np.full(last + 2, self.UNKNOWN, np.uint8)
        for block, node in pairs:
            unknown = self._node[block] == self.UNKNOWN and node < self.UNKNOWN
            self._node[block] = node if unknown else self.UNKNOWN
        self._shift = self.block_frames.bit_length() - 1
        self._zero = zero_frame()
        # Compiled now, not in the first turn of somebody with a budget.
        self.placement(np.zeros(1, np.uint64))

    def nodes(self, frame: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the node of each frame, UNKNOWN where nobody says."""
        block = np.minimum(frame // np.uint64(self.block_frames), len(self._node) - 1)
        node: NDArray[np.uint8] = self._node[block.astype(np.intp)]
        return node

    def placement(
        self, entries: NDArray[np.uint64], swap_node: int = NOT_PRESENT
    ) -> NDArray[np.uint8]:
        """Return the node of each pagemap entry, uint8[n].

        NOT_PRESENT where there is no page or only the one of zeros, ``swap_node``
        where it is swapped out, UNKNOWN where the frame's node, or the frame itself,
        is not to be seen.
        """
        node = np.empty(len(entries), np.uint8)
        nodes_of_entries(entries, self._node, self._shift, self._zero, swap_node, node)
        return node


_NODE = re.compile(r"node[0-9]{1,4}$", re.ASCII)
_BLOCK = re.compile(r"memory[0-9]{1,9}$", re.ASCII)


def zero_frame() -> int:
    """Return the frame that stands for pages read and never written, 0 if unseen."""
    with mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE) as page:
        view = np.frombuffer(page, np.uint8)
        at = int(view.ctypes.data) // PAGE_BYTES
        entry = np.full(1, view[0], np.uint64)
        del view
        try:
            fd = _open_own()
        except OSError:
            return 0
        try:
            os.preadv(fd, [entry.data], at * 8)
        except OSError:
            return 0
        finally:
            os.close(fd)
    return int(entry[0] & FRAME)


def frames_visible() -> bool:
    """Return whether pagemap shows us frames: it takes CAP_SYS_ADMIN."""
    probe = np.ones(1, np.uint64)
    try:
        fd = _open_own()
    except OSError:
        return False
    try:
        got = os.preadv(fd, [probe.data], probe.ctypes.data // PAGE_BYTES * 8)
    except OSError:
        return False
    finally:
        os.close(fd)
    return got == 8 and int(probe[0] & FRAME) != 0


def read_page_flags(frame: NDArray[np.uint64]) -> NDArray[np.uint64] | None:
    """Return the flags of frames from /proc/kpageflags, uint64[n], 0 beyond its end.

    One read a frame: for the few pages that would not move. None where the file
    is not there or not ours to read.
    """
    flags = np.zeros(len(frame), np.uint64)
    try:
        fd = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for i, at in enumerate(frame.tolist()):
            flags_of = os.pread(fd, 8, at * 8)
            if len(flags_of) == 8:
                flags[i] = int.from_bytes(flags_of, "little")
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EIO):
            return None
    finally:
        os.close(fd)
    return flags

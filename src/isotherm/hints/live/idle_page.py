"""Accessed bits from idle page tracking: /sys/kernel/mm/page_idle/bitmap.

One bit a frame in 64-bit words of the host's byte order; 1 is idle. Writing a 1
marks the frame idle (and clears the accessed bits that map it), writing a 0 does
nothing; reads and writes are by whole words (mm/page_idle.c). Only pages of user
memory on an LRU list are tracked; of a huge page only the first frame is.

Kernels need CONFIG_IDLE_PAGE_TRACKING, which Debian's have not.
"""

import errno
import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.hints.live.bit_reader import GRANULE, Bits, Granules
from isotherm.hints.live.facts import missing
from isotherm.hints.live.frame_map import Pagemaps, ReadEntries
from isotherm.machine.linux.pagemap import FRAME, PRESENT
from isotherm.machine.linux.syscalls import errno_name

BITMAP: Final = Path("/sys/kernel/mm/page_idle/bitmap")
#: Words between two wanted ones that are read along: 4 KiB of bitmap.
GAP_WORDS: Final = 512
_WORD: Final = 8

Frames = NDArray[np.uint64]


class IdlePageBits:
    """Reads and clears accessed bits through the idle bitmap.

    Args:
        bitmap: Where it stands.
        read: Reads pagemap entries; None: from /proc.
    """

    name = "idle-page"

    def __init__(self, bitmap: Path = BITMAP, read: ReadEntries | None = None) -> None:
        self._path = bitmap
        self._fd = -1
        self._pagemaps = Pagemaps()
        self._entries = read or self._pagemaps.read
        self._huge: set[tuple[int, int]] = set()  # process and granule

    @staticmethod
    def probe(bitmap: Path = BITMAP) -> Availability:
        """Return whether the kernel tracks idle pages and lets us see."""
        reader = IdlePageBits(bitmap)
        try:
            reader.open()
        except IsothermError as error:
            return missing("idle-page", error)
        finally:
            reader.close()
        return Availability("idle-page", "source", True, f"{bitmap} can be written")

    def open(self) -> None:
        """Open the bitmap.

        Raises:
            UnsupportedError: The kernel has none.
            NotPermittedError: Not root.
        """
        if self._fd >= 0:
            return
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            name = errno_name(error.errno or 0)
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotPermittedError(
                    f"{self._path}: {name}", hint="run as root"
                ) from error
            raise UnsupportedError(
                f"{self._path}: {name}",
                hint="a kernel with CONFIG_IDLE_PAGE_TRACKING",
            ) from error

    def close(self) -> None:
        """Close the bitmap; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._pagemaps.close()

    def clears_all(self, pid: int, pages: int) -> bool:
        """Return False: frames are marked one by one."""
        return False

    def read(self, pid: int, granule: Granules) -> tuple[Bits, NDArray[np.bool_]]:
        """Return which pages are not idle; see BitReader."""
        frames = self._frames(pid, granule)
        touched = (frames != 0) & ~self._idle(frames)
        for row, g in enumerate(granule.tolist()):
            if (pid, g) in self._huge:
                touched[row] = touched[row, 0]
        bits = np.packbits(touched, axis=1, bitorder="little")
        return bits, np.ones(len(granule), np.bool_)

    def clear(
        self, pid: int, granule: Granules, mapped: NDArray[np.int64]
    ) -> Bits | None:
        """Mark the pages idle, and find those that cannot be; see BitReader."""
        frames = self._frames(pid, granule)
        self._mark(frames[frames != 0])
        stuck = (frames != 0) & ~self._idle(frames)
        for row, g in enumerate(granule.tolist()):
            self._huge.discard((pid, g))
            first = int(frames[row, 0])
            if first % GRANULE or stuck[row, 0] or not stuck[row, 1:].all():
                continue
            if (frames[row] == first + np.arange(GRANULE, dtype=np.uint64)).all():
                self._huge.add((pid, g))
                stuck[row] = False
        return np.packbits(stuck, axis=1, bitorder="little") if stuck.any() else None

    def _frames(self, pid: int, granule: Granules) -> Frames:
        """Return the frames of granules, uint64[n, 512]; 0 where there is none."""
        frames = np.zeros((len(granule), GRANULE), np.uint64)
        border = np.flatnonzero(np.diff(granule) != 1) + 1
        for rows in np.split(np.arange(len(granule)), border):
            if len(rows) == 0:
                continue
            start = int(granule[rows[0]]) * GRANULE
            entry = self._entries(pid, start, start + len(rows) * GRANULE)
            frame = np.where(entry & PRESENT != 0, entry & FRAME, np.uint64(0))
            frames[rows] = frame.reshape(-1, GRANULE)
        return frames

    def _spans(self, word: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return ranges of words that cover ascending ones."""
        if len(word) == 0:
            return []
        border = np.flatnonzero(np.diff(word) > GAP_WORDS)
        first = word[np.concatenate([[0], border + 1])]
        last = word[np.concatenate([border, [len(word) - 1]])] + 1
        return list(zip(first.tolist(), last.tolist(), strict=True))

    def _idle(self, frames: Frames) -> NDArray[np.bool_]:
        """Return whether each frame is idle; False for frame 0."""
        word = (frames >> np.uint64(6)).astype(np.int64)
        wanted = np.unique(word[frames != 0])
        value = np.zeros(len(wanted), np.uint64)
        for first, last in self._spans(wanted):
            size = (last - first) * _WORD
            data = self._pread(size, first * _WORD)
            words = np.zeros(last - first, np.uint64)
            words[: len(data) // _WORD] = np.frombuffer(data, np.uint64)
            low, high = np.searchsorted(wanted, [first, last])
            value[low:high] = words[wanted[low:high] - first]
        if len(wanted) == 0:
            return np.zeros(frames.shape, np.bool_)
        at = np.minimum(np.searchsorted(wanted, word), len(wanted) - 1)
        bit = value[at] >> (frames & np.uint64(63)) & np.uint64(1)
        return np.asarray((bit == 1) & (frames != 0), np.bool_)

    def _pread(self, size: int, offset: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                if error.errno == errno.ENXIO:  # beyond the last frame
                    break
                raise
            if not part:
                break
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        data = b"".join(parts)
        return data[: len(data) // _WORD * _WORD]

    def _mark(self, frame: Frames) -> None:
        """Mark frames idle: words that hold their bits and no others."""
        word = (frame >> np.uint64(6)).astype(np.int64)
        wanted, at = np.unique(word, return_inverse=True)
        value = np.zeros(len(wanted), np.uint64)
        np.bitwise_or.at(value, at, np.uint64(1) << (frame & np.uint64(63)))
        border = np.flatnonzero(np.diff(wanted) != 1) + 1
        for rows in np.split(np.arange(len(wanted)), border):
            if len(rows):
                os.pwrite(self._fd, value[rows].tobytes(), int(wanted[rows[0]]) * _WORD)

"""Ring buffers of perf events, and the AUX areas beside them.

The kernel writes at the head and stops before the tail, which we move on when we
have copied (include/uapi/linux/perf_event.h, struct perf_event_mmap_page). Heads
and tails count on for ever; what straddles the end of the buffer is two pieces.
"""

import mmap
import os
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

_PAGE: Final = mmap.PAGESIZE
# Bytes of struct perf_event_mmap_page.
_HEAD, _TAIL, _OFFSET, _SIZE = 1024, 1032, 1040, 1048
_AUX_HEAD, _AUX_TAIL, _AUX_OFFSET, _AUX_SIZE = 1056, 1064, 1072, 1080

_order = threading.Lock()


def _fence() -> None:
    """Keep reads and writes of memory on their side of this call.

    The kernel orders data before head and tail before data; so must we. Twice a
    lock and its release is such a fence on every processor: releasing keeps what
    was before, taking again what comes after.
    """
    for _ in range(2):
        _order.acquire()
        _order.release()


class Buffer:
    """One direction of a shared buffer: somebody writes, we read.

    Args:
        control: The control page, uint64[at least 136].
        data: The buffer; its length is a power of two.
        head: Byte of the control page at which the writer's head stands.
        tail: Byte at which ours does.
    """

    def __init__(
        self, control: Words, data: NDArray[np.generic], head: int, tail: int
    ) -> None:
        self._control = control
        self._data = data
        self._head, self._tail = head // 8, tail // 8
        #: Bytes that were overwritten before they were read: the writer does that
        #: only where its tail is not minded.
        self.overwritten = 0

    @property
    def position(self) -> int:
        """Bytes read since the buffer was made."""
        return int(self._control[self._tail])

    def take(self) -> NDArray[np.generic]:
        """Return a copy of what is there, oldest first, and give its room back."""
        head = int(self._control[self._head])
        _fence()
        tail = int(self._control[self._tail])
        each, size = self._data.itemsize, self._data.nbytes
        ahead = (head - tail) & 0xFFFF_FFFF_FFFF_FFFF
        if ahead > size:  # also a head that has gone back: nothing is known
            self.overwritten += min(ahead, 1 << 63) - size if ahead < 1 << 63 else 0
            self._control[self._tail] = head
            return self._data[:0].copy()
        first, count = tail % size // each, ahead // each
        at_once = min(count, len(self._data) - first)
        out = np.empty(count, self._data.dtype)
        out[:at_once] = self._data[first : first + at_once]
        out[at_once:] = self._data[: count - at_once]
        _fence()
        self._control[self._tail] = head
        return out


class Ring:
    """The ring buffer of one event, and its AUX area where it has one.

    Args:
        fd: An event of this process; owned by the ring from now on.
        data_pages: Pages of the data area, a power of two.
        aux_pages: Pages of the AUX area, a power of two; 0: none.

    Raises:
        OSError: The ring cannot be mapped: EPERM beyond perf_event_mlock_kb.
    """

    def __init__(self, fd: int, data_pages: int, aux_pages: int = 0) -> None:
        self.fd = fd
        self._aux_map: mmap.mmap | None = None
        self._aux: Buffer | None = None
        both = mmap.PROT_READ | mmap.PROT_WRITE
        length = (1 + data_pages) * _PAGE
        try:
            self._map = mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=both)
        except OSError:
            os.close(fd)
            raise
        # Heads and tails through a view: one aligned 64-bit access each.
        control = np.frombuffer(self._map, np.uint64, _PAGE // 8)
        offset, size = int(control[_OFFSET // 8]), int(control[_SIZE // 8])
        data = np.frombuffer(self._map, np.uint64, size // 8, offset)
        self._buffer: Buffer | None = Buffer(control, data, _HEAD, _TAIL)
        if not aux_pages:
            return
        control[_AUX_OFFSET // 8] = length
        control[_AUX_SIZE // 8] = aux_pages * _PAGE
        try:
            self._aux_map = mmap.mmap(
                fd, aux_pages * _PAGE, flags=mmap.MAP_SHARED, prot=both, offset=length
            )
        except OSError:
            del control, data
            self.close()
            raise
        area = np.frombuffer(self._aux_map, np.uint8)
        self._aux = Buffer(control, area, _AUX_HEAD, _AUX_TAIL)

    def read(self) -> Words:
        """Return and consume what the kernel has written, oldest first, uint64[n]."""
        assert self._buffer is not None  # noqa: S101  # it is open
        return self._buffer.take().astype(np.uint64, copy=False)

    def read_aux(self) -> tuple[Bytes, int]:
        """Return and consume the AUX area, uint8[n], and where in it that began."""
        if self._aux is None:
            return np.empty(0, np.uint8), 0
        at = self._aux.position
        return self._aux.take().astype(np.uint8, copy=False), at

    def close(self) -> None:
        """Unmap the ring and close its event."""
        if self.fd < 0:
            return
        self._buffer = self._aux = None
        if self._aux_map is not None:
            self._aux_map.close()
            self._aux_map = None
        self._map.close()
        os.close(self.fd)
        self.fd = -1

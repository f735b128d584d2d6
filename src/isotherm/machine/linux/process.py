"""One process, held by pidfd so that a recycled pid is never taken for it."""

import contextlib
import errno
import os
import re
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core import descriptors, privileged
from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)
from isotherm.core.names import printable
from isotherm.core.units import PAGE_BYTES
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.mappings import Mappings, parse_maps

#: One entry of /proc/PID/pagemap is 8 bytes.
_ENTRY_BYTES: Final = 8
_READ_BYTES: Final = 1 << 20


class NoDescriptorError(IsothermError):
    """There is no file descriptor left to look at a process with."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What changes about a process, from /proc/PID/stat (proc(5)).

    Attributes:
        comm: Name, at most 15 bytes; what a terminal obeys is a question mark.
        parent: Its parent; 0 where that is in another pid namespace.
        threads: Threads it has.
        start_ticks: When it started, in clock ticks since boot.
        image: What an exec changes: where code and stack begin. 0s if we may not
            know.
        vsize_bytes: Size of its address space.
        rss_pages: Pages it has in memory.
        minor_faults: Faults without I/O since it started.
        major_faults: Faults with I/O since it started.
        cpu_ticks: User and system time of all its threads.
    """

    comm: str
    parent: int
    threads: int
    start_ticks: int
    image: tuple[int, int]
    vsize_bytes: int
    rss_pages: int
    minor_faults: int
    major_faults: int
    cpu_ticks: int


def parse_stat(text: str) -> Stat:
    """Return the fields of a ``/proc/PID/stat`` line.

    The name may hold spaces and brackets: it ends at the last one.

    Raises:
        ValueError: The line is cut off or not a number where one should be.
    """
    name_end = text.rindex(")")
    field = text[name_end + 2 :].split()  # field[0] is the third of proc(5)
    if len(field) < 26:
        raise ValueError(f"stat: expected at least 28 fields, got {len(field) + 2}")
    return Stat(
        comm=printable(text[text.index("(") + 1 : name_end]),
        parent=int(field[1]),
        threads=int(field[17]),
        start_ticks=int(field[19]),
        image=(int(field[23]), int(field[25])),
        vsize_bytes=int(field[20]),
        rss_pages=int(field[21]),
        minor_faults=int(field[7]),
        major_faults=int(field[9]),
        cpu_ticks=int(field[11]) + int(field[12]),
    )


class Process:
    """A process and its ``/proc`` directory, as it was when it was opened.

    Everything under ``/proc`` is read through a descriptor of the directory, which
    stays bound to this very process; calls that take a number are made while the
    pidfd says that it is alive. Between that look and the call a pid would have to
    end, be reaped and be given out again.

    Where this process has no rights (``core.privileged``), who has them holds the
    directory, opens its files and makes the calls.

    Args:
        pid: A process (thread group) id.

    Raises:
        TargetGoneError: There is no such process, or it ended while it was opened.
        UsageError: It is a thread.
        UnsupportedError: The kernel has no pidfd (Linux 5.3 added it).
        NotPermittedError: ``/proc/PID`` is hidden from us.
        NoDescriptorError: None is left.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self.pidfd = self._proc = self._pagemap = -1
        #: Of who has the rights, where that is not this process.
        self.handle = 0
        self._broker = privileged.broker()
        if self._broker is not None:
            try:
                admitted = self._broker.admit(pid)
            except OSError as error:
                raise _as_error(pid, error) from error
            self.handle, self.pidfd, self.start_ticks = admitted
            return
        try:
            self.pidfd = os.pidfd_open(pid)
            self._proc = os.open(
                f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            )
            self.start_ticks = self.stat().start_ticks
        except AttributeError as error:
            raise UnsupportedError("pidfd_open: not in this Python's libc") from error
        except OSError as error:
            self.close()
            raise _as_error(pid, error) from error
        except IsothermError:
            self.close()
            raise
        if not self.alive():
            self.close()
            raise gone(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Process({self.pid})"

    def fits(self) -> bool:
        """Return whether its descriptors leave room for what else must be opened."""
        newest = max(self.pidfd, self._proc, self._pagemap)
        return descriptors.fits(newest, descriptors.FOR_PROCESSES)

    def close(self) -> None:
        """Give the descriptors back; waits for a call that uses them."""
        with self._lock:
            for fd in (self._pagemap, self._proc, self.pidfd):
                if fd >= 0:
                    os.close(fd)
            self.pidfd = self._proc = self._pagemap = -1
            if self._broker is not None and self.handle:
                with contextlib.suppress(OSError):  # it is gone, too
                    self._broker.release(self.handle)
                self.handle = 0

    def alive(self) -> bool:
        """Return whether the process still runs; a zombie does not."""
        pidfd = self.pidfd
        if pidfd < 0:
            return False
        # One of its own: the thread that moves asks while the loop does.
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Keep the descriptors open for a call; gives whether it is alive."""
        with self._lock:
            yield self.alive()

    # -- what it is -------------------------------------------------------

    def read_text(self, name: str) -> str:
        """Return a file of its ``/proc`` directory.

        Raises:
            TargetGoneError: It is not there any more.
            NotPermittedError: We may not read it.
        """
        return self.read_bytes(name).decode("utf-8", "replace")

    def read_bytes(self, name: str) -> bytes:
        """Return a file of its ``/proc`` directory; see :meth:`read_text`."""
        if self._broker is not None:
            try:
                return self._broker.read(self.handle, name)
            except OSError as error:
                raise _as_error(self.pid, error) from error
        fd = self.open(name)
        parts: list[bytes] = []
        try:
            while part := os.read(fd, _READ_BYTES):
                parts.append(part)
        except OSError as error:
            raise _as_error(self.pid, error) from error
        finally:
            os.close(fd)
        return b"".join(parts)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of a file of its ``/proc`` directory; see read_text."""
        if self.pidfd < 0:
            raise gone(self.pid)
        try:
            if self._broker is not None:
                return self._broker.open(self.handle, name, flags)
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError as error:
            raise _as_error(self.pid, error) from error

    def stat(self) -> Stat:
        """Return what ``/proc/PID/stat`` says.

        Raises:
            TargetGoneError: It is not there any more.
        """
        return parse_stat(self.read_text("stat"))

    def threads(self) -> tuple[int, ...]:
        """Return its thread ids, ascending.

        Raises:
            TargetGoneError: It is not there any more.
        """
        fd = self.open("task", os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = os.listdir(fd)  # noqa: PTH208  # a descriptor
        except OSError as error:
            raise _as_error(self.pid, error) from error
        finally:
            os.close(fd)
        if not names:
            raise gone(self.pid)
        return tuple(sorted(int(name) for name in names))

    def mappings(self) -> Mappings:
        """Return its mappings, from ``/proc/PID/maps``.

        Raises:
            TargetGoneError: It is not there any more.
            NotPermittedError: We may not read them.
        """
        text = self.read_bytes("maps")
        if not text and not self.alive():
            raise gone(self.pid)
        return parse_maps(text)

    # -- its pages --------------------------------------------------------

    def pagemap(self, start: int, end: int) -> NDArray[np.uint64]:
        """Return the pagemap entries of virtual pages ``[start, end)``, uint64[n].

        Args:
            start: First virtual page number.
            end: One past the last; what lies beyond the address space is 0.

        Raises:
            TargetGoneError: It is not there any more.
            NotPermittedError: We may not read it.
        """
        entries = np.zeros(max(end - start, 0), np.uint64)
        self.read_pagemap(start, entries)
        return entries

    def read_pagemap(self, start: int, into: NDArray[np.uint64]) -> None:
        """Read pagemap entries from virtual page ``start`` on into an array.

        Entries beyond the end of the address space are left alone. See
        :meth:`pagemap` for errors.
        """
        view = into.view(np.uint8).data
        fd = self.pagemap_fd()
        done = 0
        try:
            while done < len(view):
                got = os.preadv(fd, [view[done:]], start * _ENTRY_BYTES + done)
                if got == 0:
                    break
                done += got
        except OSError as error:
            raise _as_error(self.pid, error) from error
        if done == 0 and into.size and not self.alive():
            raise gone(self.pid)

    def pagemap_fd(self) -> int:
        """Return a descriptor of its pagemap, kept until an exec or ``close``.

        It stands for the memory that it was opened on: after an exec call
        :meth:`renew`.
        """
        if self._pagemap < 0:
            self._pagemap = self.open("pagemap")
        return self._pagemap

    def renew(self) -> None:
        """Forget what belongs to the memory before an exec."""
        with self._lock:
            if self._pagemap >= 0:
                os.close(self._pagemap)
            self._pagemap = -1

    def clear_refs(self, what: int) -> None:
        """Clear accessed (1) or soft-dirty (4) bits of all its pages (proc(5)).

        Raises:
            TargetGoneError: It is not there any more.
            NotPermittedError: We may not.
            OSError: The kernel refuses.
        """
        if self._broker is not None:
            self._broker.clear_refs(self.handle, what)
            return
        fd = self.open("clear_refs", os.O_WRONLY)
        try:
            os.write(fd, b"%d" % what)
        finally:
            os.close(fd)

    def move_pages(
        self,
        vpage: NDArray[np.uint64],
        node: NDArray[np.int32] | None,
        flags: int = syscalls.MPOL_MF_MOVE,
    ) -> syscalls.MovePages:
        """Put pages on nodes; without nodes only ask where they are.

        A process that has ended answers -ESRCH.
        """
        address = vpage.astype(np.uint64) * np.uint64(PAGE_BYTES)
        with self.held() as alive:
            if not alive:
                status = np.full(len(vpage), syscalls.NO_STATUS, np.int32)
                return syscalls.MovePages(-errno.ESRCH, status)
            if self._broker is not None:
                return syscalls.MovePages(
                    *self._broker.move_pages(self.handle, address, node, flags)
                )
            return syscalls.move_pages(self.pid, address, node, flags)

    def madvise(self, ranges: NDArray[np.int64], advice: int) -> int:
        """Give advice about ranges of virtual pages; return bytes, or -errno.

        Args:
            ranges: int64[n, 2], [start, end).
            advice: One of ``syscalls.MADV_*``.
        """
        start = ranges[:, 0].astype(np.uint64) * np.uint64(PAGE_BYTES)
        size = (ranges[:, 1] - ranges[:, 0]).astype(np.uint64) * np.uint64(PAGE_BYTES)
        with self.held() as alive:
            if not alive:
                return -errno.ESRCH
            if self._broker is not None:
                return self._broker.madvise(self.handle, start, size, advice)
            return syscalls.process_madvise(self.pidfd, start, size, advice)

    def touch(self, vpage: NDArray[np.uint64]) -> int:
        """Fault pages in from outside; return how many are there, or -errno."""
        with self.held() as alive:
            if not alive:
                return -errno.ESRCH
            address = vpage.astype(np.uint64) * np.uint64(PAGE_BYTES)
            if self._broker is not None:
                return self._broker.touch(self.handle, address)
            return syscalls.touch(self.pid, address)


def gone(pid: int) -> TargetGoneError:
    """Return the error for a process that has vanished."""
    return TargetGoneError(f"pid {pid}: no such process any more")


def _as_error(pid: int, error: OSError) -> IsothermError:
    """Return what an errno of pidfd_open(2) or of a file in /proc means here."""
    code = error.errno or 0
    name = syscalls.errno_name(code)
    if code in (errno.EPERM, errno.EACCES):
        return NotPermittedError(
            f"pid {pid}: may not be looked at: {name}",
            hint="run as that user or as root; isotherm doctor lists what is missing",
        )
    if code == errno.ENOSYS:
        return UnsupportedError(f"pid {pid}: the kernel has no pidfd_open: {name}")
    # For a thread pidfd_open says EINVAL, newer kernels ENOENT.
    leader = _leader(pid) if code in (errno.EINVAL, errno.ENOENT) else pid
    if leader != pid:
        return UsageError(
            f"pid {pid}: is a thread, expected a process",
            hint=f"its process is {leader}",
        )
    if code in (errno.ESRCH, errno.ENOENT, errno.EBADF, errno.EINVAL):
        return gone(pid)
    if code in descriptors.NONE_LEFT:
        return no_descriptor(pid, name)
    return IsothermError(f"pid {pid}: cannot be looked at: {name}")


def no_descriptor(pid: int, why: str) -> NoDescriptorError:
    """Return the error for a process that there are no descriptors for."""
    return NoDescriptorError(f"pid {pid}: left out: {why}", hint=descriptors.HINT)


def _leader(pid: int) -> int:
    """Return the process that a thread belongs to; itself where nobody can say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return pid
    found = re.search(r"^Tgid:\s*([0-9]+)$", text, re.MULTILINE)
    return int(found[1]) if found else pid

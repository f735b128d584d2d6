"""A userfaultfd of another process's memory: got with its help, or without it.

The descriptor lives in this process alone. When it is closed, and it is when this
process ends in whatever way, the kernel unregisters every range and takes all
write protection off: nothing has to be undone.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
)
from isotherm.core.units import PAGE_BYTES
from isotherm.hints.live.inject import StoppedProcess
from isotherm.machine.linux import syscalls
from isotherm.machine.linux.process import Process

_NR_USERFAULTFD: Final = 323  # x86-64; injection is for x86-64 only
_NR_CLOSE: Final = 3
_USER_MODE_ONLY: Final = 1
_API: Final = 0xAA
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_UNREGISTER: Final = 0x8010AA01
_MODE_WP: Final = 1 << 1
FEATURE_WP_ASYNC: Final = 1 << 15  # v6.7
_LINK: Final = "anon_inode:[userfaultfd]"
#: VmFlags of a mapping that a userfaultfd has: missing, write-protect, minor.
_VM_FLAGS: Final = frozenset({"um", "uw", "ui"})


def why_refused(process: Process) -> str | None:
    """Return why this process must be left alone; None if nothing speaks against it.

    A seccomp filter may kill a process for a call that it did not expect; a
    debugger holds the only tracer's place; a userfaultfd user (a migration, a
    checkpoint, a garbage collector) would lose its faults.

    Raises:
        TargetGoneError: It has ended.
        NotPermittedError: It may not be looked at.
    """
    lines = process.read_text("status").splitlines()
    status = {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if status.get("State", "").startswith(("T", "t", "Z")):
        return f"its main thread does not run (State: {status['State']})"
    tracer = int(status.get("TracerPid", "0"))
    if tracer:
        return f"a debugger is attached (TracerPid: {tracer})"
    mode = status.get("Seccomp", "0")
    if mode != "0":
        return f"it runs under seccomp (Seccomp: {mode})"
    if _holds_userfaultfd(process):
        return "it has a userfaultfd of its own"
    flags = (
        line.split()[1:]
        for line in process.read_text("smaps").splitlines()
        if line.startswith("VmFlags:")
    )
    if any(_VM_FLAGS.intersection(f) for f in flags):
        return "a userfaultfd user has registered its memory"
    return None


def _holds_userfaultfd(process: Process) -> bool:
    directory = process.open("fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(directory):  # noqa: PTH208  # a descriptor
            try:
                if os.readlink(name, dir_fd=directory) == _LINK:
                    return True
            except OSError:  # closed meanwhile
                continue
    finally:
        os.close(directory)
    return False


class RemoteUserfaultfd:
    """A userfaultfd with asynchronous write protection of one process.

    Args:
        fd: Descriptor in this process; owned from now on.
        pid: Whose memory it is of, for messages.
        stopped_ns: For how long its process was stopped to get it.

    Raises:
        UnsupportedError: The kernel has no asynchronous write protection, or the
            descriptor is in use for something else.
    """

    def __init__(self, fd: int, pid: int, stopped_ns: int = 0) -> None:
        self.fd = fd
        self.pid = pid
        self.stopped_ns = stopped_ns
        api = bytearray(struct.pack("<QQQ", _API, FEATURE_WP_ASYNC, 0))
        try:
            fcntl.ioctl(fd, _UFFDIO_API, api)
        except OSError as error:
            self.close()
            name = errno.errorcode.get(error.errno or 0, "?")
            raise UnsupportedError(
                f"pid {pid}: userfaultfd: {name}: no asynchronous write protection "
                "(it came with v6.7)"
            ) from error

    def register(self, start_page: int, end_page: int) -> int:
        """Register virtual pages for write protection; return 0 or an errno."""
        start, size = start_page * PAGE_BYTES, (end_page - start_page) * PAGE_BYTES
        argument = bytearray(struct.pack("<QQQQ", start, size, _MODE_WP, 0))
        return self._ioctl(_UFFDIO_REGISTER, argument)

    def unregister(self, start_page: int, end_page: int) -> int:
        """Take pages off again, with their write protection; return 0 or an errno."""
        start, size = start_page * PAGE_BYTES, (end_page - start_page) * PAGE_BYTES
        argument = bytearray(struct.pack("<QQ", start, size))
        return self._ioctl(_UFFDIO_UNREGISTER, argument)

    def _ioctl(self, request: int, argument: bytearray) -> int:
        try:
            fcntl.ioctl(self.fd, request, argument)
        except OSError as error:
            return error.errno or errno.EINVAL
        return 0

    def close(self) -> None:
        """Close it: the kernel unregisters all; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def adopt(process: Process, fd: int) -> RemoteUserfaultfd:
    """Take over a userfaultfd that a process has made for us.

    Args:
        process: A target that cooperates: ``userfaultfd(O_CLOEXEC | O_NONBLOCK)``.
        fd: Its number there. The target should close it when we have ours.

    Raises:
        UnsupportedError: It is not a userfaultfd, or in use already.
        NotPermittedError: pidfd_getfd(2) is not permitted.
        TargetGoneError: The process has ended.
    """
    with process.held() as alive:
        if not alive:
            raise TargetGoneError(f"pid {process.pid}: no such process any more")
        ours = syscalls.pidfd_getfd(process.pidfd, fd)
    if ours < 0:
        name = syscalls.errno_name(-ours)
        kind = NotPermittedError if -ours == errno.EPERM else UnsupportedError
        raise kind(f"pid {process.pid}: pidfd_getfd({fd}): {name}")
    if str(Path(f"/proc/self/fd/{ours}").readlink()) != _LINK:
        os.close(ours)
        raise UnsupportedError(f"pid {process.pid}: fd {fd}: not a userfaultfd")
    return RemoteUserfaultfd(ours, process.pid)


def inject(process: Process) -> RemoteUserfaultfd:
    """Make a userfaultfd inside a process that does not cooperate, by ptrace.

    Only for a target that was named for it (``--intrusive``).

    Raises:
        UnsupportedError: It is refused, with the reason; or the kernel cannot.
        NotPermittedError: ptrace is not permitted.
        TargetGoneError: It has ended.
    """
    why = why_refused(process)
    if why:
        raise UnsupportedError(f"pid {process.pid}: userfaultfd: {why}")
    stopped = StoppedProcess(process)
    ours = -1
    failed: IsothermError | None = None
    with stopped:
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
        theirs = stopped.call(_NR_USERFAULTFD, flags)
        if theirs < 0:
            name = syscalls.errno_name(-theirs)
            failed = UnsupportedError(f"pid {process.pid}: userfaultfd: {name}")
        else:
            ours = syscalls.pidfd_getfd(process.pidfd, theirs)
            stopped.call(_NR_CLOSE, theirs)
    if failed is not None:
        raise failed
    if ours < 0:
        name = syscalls.errno_name(-ours)
        raise NotPermittedError(f"pid {process.pid}: pidfd_getfd: {name}")
    return RemoteUserfaultfd(ours, process.pid, stopped.stopped_ns)

"""perf_event_open(2) itself, or who is asked for it where we may not."""

import ctypes
import errno
import os
from typing import Final

from isotherm.core import privileged

_NR_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_FLAG_FD_CLOEXEC: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)


def perf_event_open(attr: bytes, tid: int, cpu: int, group: int = -1) -> int:
    """Open an event and return its descriptor, closed on exec.

    Args:
        attr: struct perf_event_attr.
        tid: Thread to watch; 0: this one; -1: every thread on the CPU.
        cpu: CPU; -1: whichever the thread runs on.
        group: Descriptor of the event that leads its group; -1: none.

    Raises:
        OSError: With the kernel's errno.
    """
    asked = privileged.broker()
    if asked is not None:
        return asked.open_event(attr, tid, cpu, group)
    number = _NR_PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open on {os.uname().machine}")
    buffer = ctypes.create_string_buffer(attr, len(attr))
    fd = int(
        _libc.syscall(
            ctypes.c_long(number),
            buffer,
            ctypes.c_int(tid),
            ctypes.c_int(cpu),
            ctypes.c_int(group),
            ctypes.c_ulong(_FLAG_FD_CLOEXEC),
        )
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"perf_event_open: {os.strerror(code)}")
    return fd

"""Which perf events a session may have: page faults of its processes, DAMON's reports.

A request carries a struct perf_event_attr. It is taken apart, held against what the
sources need, and refused where anything else is set: none samples the kernel, none
a CPU with all that runs there.
"""

import errno
import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final

_HEAD: Final = struct.Struct("<IIQQQQQII")
_MORE: Final = struct.Struct("<QQQQ")
_REST: Final = struct.Struct("<IiQII")
#: PERF_ATTR_SIZE_VER5.
SIZE: Final = _HEAD.size + _MORE.size + _REST.size

_SOFTWARE, _TRACEPOINT = 1, 2
_FAULTS_MIN, _DUMMY = 5, 9
_CLOCK_MONOTONIC: Final = 1
# include/uapi/linux/perf_event.h: sample_type.
_TID, _TIME, _ADDR, _CPU, _RAW = 1 << 1, 1 << 2, 1 << 3, 1 << 7, 1 << 10
_FAULT_FIELDS: Final = _TID | _TIME | _ADDR | _CPU
# The flag word.
_DISABLED, _INHERIT, _NO_KERNEL, _NO_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_CLOCKID, _INHERIT_THREAD = 1 << 25, 1 << 35
_FAULT_FLAGS: Final = (
    _DISABLED | _INHERIT | _INHERIT_THREAD | _NO_KERNEL | _NO_HV | _CLOCKID
)


class Kind(Enum):
    """What an event is for."""

    THREAD = "of a thread"
    KDAMOND = "of a kdamond"


@dataclass(frozen=True, slots=True)
class Asked:
    """An event that may be opened.

    Attributes:
        kind: What for.
        config: Number of the tracepoint, for ``KDAMOND``.
    """

    kind: Kind
    config: int


def check(attr: bytes, cpu: int, cpus: Collection[int]) -> Asked:
    """Return what an event is for.

    Args:
        attr: struct perf_event_attr.
        cpu: CPU; -1: any.
        cpus: CPUs there are.

    Raises:
        OSError: EACCES: it is none that a session may have.
    """
    if len(attr) != SIZE:
        raise OSError(errno.EACCES, f"perf event: attribute of {len(attr)} bytes")
    kind, size, config, period, fields, read, flags, wakeup, more = _HEAD.unpack_from(
        attr
    )
    rest = _REST.unpack_from(attr, _HEAD.size + _MORE.size)
    plain = (
        size == SIZE
        and period == 1
        and not (read or wakeup or more)
        and not any(_MORE.unpack_from(attr, _HEAD.size))
        and rest == (0, _CLOCK_MONOTONIC, 0, 0, 0)
        and (cpu == -1 or cpu in cpus)
    )
    if plain and kind == _SOFTWARE and config in (_FAULTS_MIN, _DUMMY):
        needed = _NO_KERNEL | _NO_HV | _CLOCKID
        fine = flags & needed == needed and not flags & ~_FAULT_FLAGS
        # Children may be nobody's of this run: threads alone inherit it.
        fine = fine and not (flags & _INHERIT and not flags & _INHERIT_THREAD)
        if fine and not fields & ~_FAULT_FIELDS:
            return Asked(Kind.THREAD, config)
    # A kernel thread's tracepoint: exclude_kernel would leave nothing.
    quiet = not flags & ~(_DISABLED | _NO_HV | _CLOCKID)
    wanted = kind == _TRACEPOINT and cpu == -1 and fields == _TIME | _RAW
    if plain and quiet and wanted:
        return Asked(Kind.KDAMOND, config)
    raise OSError(errno.EACCES, f"perf event: type {kind}, config {config}: not here")

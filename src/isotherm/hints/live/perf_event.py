"""perf_event_open(2) and its ring buffers, by ctypes.

One ring a CPU, owned by a dummy event, takes the samples of every thread that
is watched (PERF_EVENT_IOC_SET_OUTPUT). Events are opened a thread and a CPU at a
time, because the kernel lets only such events be inherited and mapped at once;
threads that are started later inherit them (``inherit_thread``), so none is
missed between two looks at /proc.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import structlog

from isotherm.core import descriptors, privileged
from isotherm.hints.live.perf_event_ring import Ring
from isotherm.machine.linux.perf_open import perf_event_open
from isotherm.records.perf_ring import Field, RingRecords, SampleLayout, decode_ring

__all__ = [
    "EventSpec",
    "Ring",
    "ThreadEvents",
    "online_cpus",
    "open_event",
    "ring_pages",
]

TYPE_SOFTWARE: Final = 1
SW_PAGE_FAULTS: Final = 2
SW_PAGE_FAULTS_MIN: Final = 5
SW_PAGE_FAULTS_MAJ: Final = 6
SW_DUMMY: Final = 9

_ATTR_SIZE: Final = 112  # PERF_ATTR_SIZE_VER5: up to sample_max_stack
_ATTR_SIZE_CONFIG3: Final = 136  # PERF_ATTR_SIZE_VER8
_IOC_ENABLE: Final = 0x2400
_IOC_DISABLE: Final = 0x2401
_IOC_SET_OUTPUT: Final = 0x2405
_IOC_PERIOD: Final = 0x4008_2404
_GROUP: Final = 1
_CLOCK_MONOTONIC: Final = 1

#: Bits of the flag word of struct perf_event_attr.
_DISABLED, _INHERIT = 1 << 0, 1 << 1
_EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 5, 1 << 6
_PRECISE_SHIFT = 15
_USE_CLOCKID = 1 << 25
_INHERIT_THREAD = 1 << 35  # v5.13; older kernels answer EINVAL

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EventSpec:
    """What to open: struct perf_event_attr, as far as it is used.

    Attributes:
        type: PMU type: TYPE_SOFTWARE, or what /sys/bus/event_source/devices says.
        config: Event.
        fields: What each sample holds.
        period: Events per sample.
        config1: Extension, as the PMU defines it.
        config2: Extension, as the PMU defines it.
        precise_ip: Skid that is allowed, 0 to 3.
        config3: Extension, as the PMU defines it; Linux 6.3 and later.
        exclude_kernel: Leave out what the kernel itself does.
        exclude_hv: Leave out what a hypervisor does; IBS refuses to.
        inherit: Threads started later are watched, too.
        aux_watermark: Bytes of an AUX area after which the kernel moves its head;
            0: half the area.
    """

    type: int
    config: int
    fields: Field
    period: int = 1
    config1: int = 0
    config2: int = 0
    precise_ip: int = 0
    config3: int = 0
    exclude_kernel: bool = False
    exclude_hv: bool = True
    inherit: bool = True
    aux_watermark: int = 0

    def attr(self) -> bytes:
        """Return struct perf_event_attr; times are CLOCK_MONOTONIC."""
        flags = _DISABLED | _USE_CLOCKID
        flags |= self.precise_ip << _PRECISE_SHIFT
        if self.exclude_kernel:
            flags |= _EXCLUDE_KERNEL
        if self.exclude_hv:
            flags |= _EXCLUDE_HV
        if self.inherit:
            flags |= _INHERIT | _INHERIT_THREAD
        head = struct.pack(
            "<IIQQQQQII",
            self.type,
            _ATTR_SIZE_CONFIG3 if self.config3 else _ATTR_SIZE,
            self.config,
            self.period,
            int(self.fields),
            0,  # read_format
            flags,
            0,  # wakeup
            0,  # bp_type
        )
        more = struct.pack("<QQQQ", self.config1, self.config2, 0, 0)
        watermark = self.aux_watermark
        rest = struct.pack("<IiQII", 0, _CLOCK_MONOTONIC, 0, watermark, 0)
        whole = head + more + rest
        if not self.config3:  # kernels before 6.3 refuse a longer one
            return whole
        return whole + struct.pack("<IIQQ", 0, 0, 0, self.config3)


def open_event(spec: EventSpec, tid: int, cpu: int, group: int = -1) -> int:
    """Open one event, disabled, and return its descriptor.

    Args:
        spec: What to open.
        tid: Thread to watch; 0: this one; -1: every thread on the CPU.
        cpu: CPU; -1: whichever the thread runs on.
        group: Descriptor of the event that leads its group; -1: none.

    Raises:
        OSError: With the kernel's errno: EACCES and EPERM (not permitted), ENOENT
            (no such event here), ESRCH (the thread is gone), EINVAL.
    """
    if privileged.broker() is not None and spec.type == TYPE_SOFTWARE:
        # What the kernel does itself is not told to those without rights.
        spec = replace(spec, exclude_kernel=True, exclude_hv=True)
    return perf_event_open(spec.attr(), tid, cpu, group)


def enable_event(fd: int, *, group: bool = False) -> None:
    """Let an event count, or a whole group by its leader."""
    fcntl.ioctl(fd, _IOC_ENABLE, _GROUP if group else 0)


def disable_event(fd: int) -> None:
    """Stop an event; its ring stays, and its PMU writes there what it still holds."""
    fcntl.ioctl(fd, _IOC_DISABLE, 0)


def change_period(fd: int, period: int) -> None:
    """Change the events per sample of an open event.

    Raises:
        OSError: EINVAL: the PMU does not take such a period.
    """
    fcntl.ioctl(fd, _IOC_PERIOD, struct.pack("<Q", period))


def online_cpus() -> list[int]:
    """Return the CPUs that are online now, ascending."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return sorted(os.sched_getaffinity(0))
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def ring_pages(cpus: int, most_pages: int = 4096) -> int:
    """Return pages a ring, a power of two: 1 MiB each, 16 MiB in all, 32 KiB least.

    >>> ring_pages(2), ring_pages(128), ring_pages(1024)
    (256, 32, 8)
    """
    each = min(256, max(8, most_pages // max(1, cpus)))
    return int(1 << (each.bit_length() - 1))


class ThreadEvents:
    """One event on the threads of many processes, one ring a CPU.

    Args:
        spec: The event.
        data_pages: Pages of each ring; None: as `ring_pages` says.
        most_events: Events (threads times CPUs) opened at most; threads that find
            no room, or for which no descriptor is left, are counted in
            ``unwatched``, and the log says so.
    """

    def __init__(
        self, spec: EventSpec, data_pages: int | None = None, most_events: int = 8192
    ) -> None:
        self.spec = spec
        self.layout = SampleLayout.of(spec.fields)
        self._data_pages = data_pages
        self._most = most_events
        self._rings: dict[int, Ring] = {}
        self._events: dict[int, list[int]] = {}  # by process
        self._left_out: dict[int, int] = {}  # threads, by process
        self._said = 0

    def open(self) -> None:
        """Map the rings.

        Raises:
            OSError: The kernel refuses.
        """
        cpus = online_cpus()
        pages = self._data_pages or ring_pages(len(cpus))
        dummy = EventSpec(TYPE_SOFTWARE, SW_DUMMY, self.spec.fields, inherit=False)
        try:
            for cpu in cpus:
                self._rings[cpu] = Ring(open_event(dummy, 0, cpu), pages)
        except OSError:
            self.close()
            raise

    @property
    def unwatched(self) -> int:
        """Threads that are not watched for want of room."""
        return sum(self._left_out.values())

    @property
    def pids(self) -> frozenset[int]:
        """Processes that are watched."""
        return frozenset(self._events)

    def watch(self, pid: int) -> bool:
        """Watch every thread of a process; return False if it is gone.

        A thread that starts while this runs may be watched twice: the same fault
        then gives two samples, which callers drop as they drop the kernel's own.

        Raises:
            OSError: The kernel refuses.
        """
        if pid in self._events:
            return True
        fds: list[int] = []
        done: set[int] = set()
        left_out = 0
        try:
            for _ in range(8):
                new = set(_threads(pid)) - done
                if not new:
                    break
                for tid in sorted(new):
                    opened = self._watch_thread(tid, len(fds))
                    if opened is None:
                        left_out += 1
                    else:
                        fds += opened
                done |= new
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        for fd in fds:
            fcntl.ioctl(fd, _IOC_ENABLE, 0)
        if not done:
            return False
        self._events[pid], self._left_out[pid] = fds, left_out
        return True

    def _watch_thread(self, tid: int, begun: int) -> list[int] | None:
        """Return the events of a thread; None where there is no room for them."""
        if self._count() + begun + len(self._rings) > self._most:
            return None
        fds: list[int] = []
        try:
            for cpu, ring in self._rings.items():
                fd = open_event(self.spec, tid, cpu)
                fds.append(fd)
                fcntl.ioctl(fd, _IOC_SET_OUTPUT, ring.fd)
                fcntl.ioctl(fd, _IOC_ENABLE, 0)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            if error.errno == errno.ESRCH:  # the thread has ended
                return []
            if error.errno in descriptors.NONE_LEFT:
                return None
            raise
        if fds and not descriptors.fits(max(fds), descriptors.FOR_EVENTS):
            for fd in fds:
                os.close(fd)
            return None
        return fds

    def _count(self) -> int:
        return sum(map(len, self._events.values()))

    def forget(self, pid: int) -> None:
        """Stop watching a process."""
        self._left_out.pop(pid, None)
        for fd in self._events.pop(pid, ()):
            os.close(fd)

    def follow(self, pids: Iterable[int]) -> None:
        """Watch exactly these processes; those that are gone are passed over.

        Raises:
            OSError: The kernel refuses.
        """
        wanted = set(pids)
        for pid in self.pids - wanted:
            self.forget(pid)
        for pid in sorted(wanted - self.pids):
            self.watch(pid)
        if self.unwatched > self._said:
            log.warning("unwatched", threads=self.unwatched, limit=descriptors.HINT)
        self._said = self.unwatched

    def drain(self) -> list[RingRecords]:
        """Return what every ring holds, decoded."""
        return [decode_ring(ring.read(), self.layout) for ring in self._rings.values()]

    def close(self) -> None:
        """Close every event and ring; may be called again."""
        for pid in list(self._events):
            self.forget(pid)
        for ring in self._rings.values():
            ring.close()
        self._rings = {}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except OSError:  # gone
        return []

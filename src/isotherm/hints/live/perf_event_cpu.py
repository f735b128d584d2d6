"""One event a CPU, whoever runs there: how IBS, PEBS and SPE are opened."""

import errno
import os
from dataclasses import replace
from typing import Final, Self

import numpy as np

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.hints.live.perf_event import (
    EventSpec,
    change_period,
    disable_event,
    enable_event,
    online_cpus,
    open_event,
    ring_pages,
)
from isotherm.hints.live.perf_event_ring import Bytes, Ring
from isotherm.records.perf_fields import Field, Shape
from isotherm.records.perf_ring import RingRecords, SampleLayout, decode_ring

#: Every thread, on one CPU.
_EVERYBODY: Final = -1
PERMIT: Final = "sysctl -w kernel.perf_event_paranoid=0"


class CpuEvents:
    """An event on every CPU, or on those of its PMU, with a ring on each.

    Args:
        spec: The event.
        cpus: CPUs; None: all that are online.
        leader: An event that must lead the group on each CPU; it takes no samples.
        data_pages: Pages of each ring, a power of two; None: as `ring_pages` says.
        aux_pages: Pages of each AUX area; 0: none.
    """

    def __init__(
        self,
        spec: EventSpec,
        cpus: tuple[int, ...] | None = None,
        *,
        leader: EventSpec | None = None,
        data_pages: int | None = None,
        aux_pages: int = 0,
    ) -> None:
        self.spec = replace(spec, inherit=False)
        self.layout = SampleLayout.of(spec.fields, Shape())
        self._cpus = cpus
        self._leader = None if leader is None else replace(leader, inherit=False)
        self._data_pages = data_pages
        self._aux_pages = aux_pages
        self._rings: dict[int, Ring] = {}
        self._leaders: list[int] = []

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs that are watched, ascending."""
        return tuple(self._rings)

    def open(self) -> None:
        """Open and enable the event on every CPU; all or none.

        A CPU that goes offline meanwhile is passed over.

        Raises:
            OSError: The kernel refuses.
        """
        there = online_cpus()
        cpus = there if self._cpus is None else sorted({*there} & {*self._cpus})
        pages = self._data_pages or ring_pages(len(cpus))
        try:
            for cpu in cpus:
                self._open_one(cpu, pages)
        except OSError:
            self.close()
            raise

    def _open_one(self, cpu: int, pages: int) -> None:
        group = -1
        try:
            if self._leader is not None:
                group = open_event(self._leader, _EVERYBODY, cpu)
                self._leaders.append(group)
            fd = open_event(self.spec, _EVERYBODY, cpu, group)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):  # the CPU has gone
                return
            raise
        self._rings[cpu] = Ring(fd, pages, self._aux_pages)
        enable_event(fd if group < 0 else group, group=group >= 0)
        if group >= 0:
            enable_event(fd)

    def set_period(self, period: int) -> bool:
        """Change the events per sample; return False if the kernel refuses."""
        try:
            for ring in self._rings.values():
                change_period(ring.fd, period)
        except OSError:
            return False
        self.spec = replace(self.spec, period=period)
        return True

    def disable(self) -> None:
        """Stop every event; what it has written can still be read."""
        for ring in self._rings.values():
            disable_event(ring.fd)

    def drain(self) -> list[RingRecords]:
        """Return what every ring holds, decoded, in order of CPUs."""
        return [decode_ring(ring.read(), self.layout) for ring in self._rings.values()]

    def drain_aux(self) -> dict[int, tuple[Bytes, int]]:
        """Return what the AUX area of every CPU holds, and where in it that began."""
        return {cpu: ring.read_aux() for cpu, ring in self._rings.items()}

    def close(self) -> None:
        """Close every event and ring; may be called again."""
        for ring in self._rings.values():
            ring.close()
        for fd in self._leaders:
            os.close(fd)
        self._rings = {}
        self._leaders = []

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refusal(name: str, error: OSError) -> IsothermError:
    """Return what to tell a person when an event could not be opened."""
    code = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"{name}: perf_event_open: {code}: events of every process on a CPU "
            "need CAP_PERFMON",
            hint=PERMIT,
        )
    return UnsupportedError(f"{name}: perf_event_open: {code}")


def mean_period(records: list[RingRecords], otherwise: float) -> float:
    """Return the mean of the periods that samples carry, or another number."""
    parts = [r.column(Field.PERIOD) for r in records if len(r)]
    if not parts:
        return otherwise
    return float(np.concatenate(parts).mean())


def try_event(name: str, spec: EventSpec, what: str) -> Availability:
    """Say whether an event of every process can be opened here, by opening it.

    Args:
        name: Of the source.
        spec: The event.
        what: What is there, for the reason.
    """
    cpu = (online_cpus() or [0])[0]
    try:
        os.close(open_event(spec, _EVERYBODY, cpu))
    except OSError as error:
        told = refusal(name, error)
        return Availability(name, "source", False, f"{what}; {told.message}", told.hint)
    return Availability(name, "source", present=True, why=what)

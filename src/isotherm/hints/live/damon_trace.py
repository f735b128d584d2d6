"""DAMON's regions in bulk: its tracepoint through a perf ring.

kdamond reports each region of each aggregation at damon:damon_aggregated
(include/trace/events/damon.h). One record is 72 bytes, and a ring of them decodes
in numpy; reading the same from sysfs takes four files a region, two hundred times
as long.
"""

import contextlib
import fcntl
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError
from isotherm.core.privileged import read_kernel_text
from isotherm.hints.live.perf_event import EventSpec, Ring, open_event
from isotherm.records.perf_ring import Field, SampleLayout, Words, decode_ring

TRACEFS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_EVENT: Final = "events/damon/damon_aggregated"
_TYPE_TRACEPOINT: Final = 2
_IOC_ENABLE: Final = 0x2400
#: Where the raw data stands in a record: header, time, and its size as 32 bits.
_RAW_AT: Final = 8 + 8 + 4
_FIELD: Final = re.compile(
    r"\s*field:.*?(\w+);\s*offset:(\d+);\s*size:(\d+);\s*signed:\d;", re.ASCII
)
_WANTED: Final = ("target_id", "start", "end", "nr_accesses", "age")


@dataclass(frozen=True, slots=True)
class Regions:
    """Reported regions, as columns, in the order of reports.

    Attributes:
        time_ns: CLOCK_MONOTONIC, int64[n].
        target: Index of the target, int64[n].
        start: First byte, int64[n].
        end: One past the last byte, int64[n].
        nr_accesses: Checks that found a bit, int64[n].
        age: Aggregations for which it has been stable, int64[n].
        lost: Reports that found no room in the ring.
    """

    time_ns: NDArray[np.int64]
    target: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    nr_accesses: NDArray[np.int64]
    age: NDArray[np.int64]
    lost: int = 0

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, first: int, last: int) -> "Regions":
        """Return some rows, without the losses."""
        at = slice(first, last)
        return Regions(
            self.time_ns[at],
            self.target[at],
            self.start[at],
            self.end[at],
            self.nr_accesses[at],
            self.age[at],
        )

    def snapshots(self) -> "list[Regions]":
        """Return one part an aggregation.

        Within one, targets ascend, and regions within a target.
        """
        if len(self) == 0:
            return []
        later = self.target[1:] > self.target[:-1]
        later |= (self.target[1:] == self.target[:-1]) & (
            self.start[1:] > self.start[:-1]
        )
        border = [0, *(np.flatnonzero(~later) + 1).tolist(), len(self)]
        return [self.rows(first, last) for first, last in itertools.pairwise(border)]


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """Return offset and size of each field of a tracepoint's ``format`` file.

    >>> parse_format("field:unsigned long start; offset:24; size:8; signed:0;")
    {'start': (24, 8)}
    """
    found = (_FIELD.match(line) for line in text.splitlines())
    return {f[1]: (int(f[2]), int(f[3])) for f in found if f is not None}


def decode(words: Words, place: Mapping[str, tuple[int, int]]) -> Regions:
    """Return the regions in a stretch of a ring.

    Args:
        words: Records, uint64[n].
        place: Offset and size of each field of the tracepoint.
    """
    end = _RAW_AT + max(offset + size for offset, size in place.values())
    count = -(-end // 8)
    layout = SampleLayout(
        Field.TIME | Field.RAW,
        (Field.TIME,) * (count - 1),
        np.arange(1, count, dtype=np.int64),
        count,
    )
    records = decode_ring(words, layout)
    rows = np.ascontiguousarray(records.columns.T).view(np.uint8)
    columns = []
    for name in _WANTED:
        offset, size = place[name]
        at = _RAW_AT + offset - 8  # the record's header is not among the columns
        part = np.ascontiguousarray(rows[:, at : at + size])
        columns.append(part.view(f"<u{size}")[:, 0].astype(np.int64))
    time_ns = records.columns[0].astype(np.int64)
    target, first, last, accesses, age = columns
    return Regions(time_ns, target, first, last, accesses, age, records.lost)


class RegionTrace:
    """The reports of one kdamond.

    Args:
        kdamond_pid: Its kernel thread.
        data_pages: Pages of the ring, a power of two: 4 MiB hold 58 000 reports.
        tracefs: Where tracefs may be mounted.

    Raises:
        UnsupportedError: tracefs is not mounted, or has not this event.
        OSError: perf_event_open(2) refuses.
    """

    def __init__(
        self,
        kdamond_pid: int,
        data_pages: int = 1024,
        tracefs: tuple[Path, ...] = TRACEFS,
    ) -> None:
        event, self._place = find_event(tracefs)
        fields = Field.TIME | Field.RAW
        spec = EventSpec(_TYPE_TRACEPOINT, event, fields, inherit=False)
        fd = open_event(spec, kdamond_pid, -1)
        self._ring = Ring(fd, data_pages)
        self.pid = kdamond_pid
        fcntl.ioctl(fd, _IOC_ENABLE, 0)

    def read(self) -> Regions:
        """Return and consume what was reported since the last call."""
        return decode(self._ring.read(), self._place)

    def close(self) -> None:
        """Close the event; may be called again."""
        self._ring.close()


def find_event(
    tracefs: tuple[Path, ...] = TRACEFS,
) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the number of the event and where its fields are.

    Raises:
        UnsupportedError: There is none.
    """
    for root in tracefs:
        with contextlib.suppress(OSError, ValueError):
            number = int(read_kernel_text(root / _EVENT / "id"))
            place = parse_format(read_kernel_text(root / _EVENT / "format"))
            if all(name in place for name in _WANTED):
                return number, place
    raise UnsupportedError(
        f"{tracefs[0] / _EVENT}: not there",
        hint="mount -t tracefs none /sys/kernel/tracing",
    )

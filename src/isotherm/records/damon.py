"""Decode DAMON's regions, as damo records them or as its tracepoint prints them.

Three forms (damo's ``_damo_records.py`` and ``damo_report_access.py``;
include/trace/events/damon.h of the kernel):

* the text of ``damo report access --raw_form``;
* the JSON that ``damo record`` keeps (compressed with zlib by default), a list of
  records, each with a target and its snapshots;
* ``damon_aggregated`` lines of ``perf script`` or ftrace, one region a line.

Each becomes snapshots: a window of time, and regions with a count of positive
access checks.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

#: DAMON's default aggregation interval, for a tracepoint's first snapshot, which
#: does not say when it began (mm/damon/core.c, DAMON_ATTRS defaults).
DEFAULT_AGGREGATION_NS = 100_000_000
_MAX = 1 << 64
_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_PART = re.compile(r"([0-9][0-9,]*(?:\.[0-9]+)?) ?(ns|us|ms|s|m|h|d)\Z")
_DIGITS = re.compile(r"[0-9]{1,20}\Z")
_REGION = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) +\([^)]*\) +([0-9]{1,10})(?: |$)"
)
_TRACEPOINT = re.compile(
    rb"(?:^|[ \t])([0-9]{1,10})\.([0-9]{1,9}): (?:damon:)?damon_aggregated: "
    rb"target_id=([0-9]{1,20}) nr_regions=([0-9]{1,10}) "
    rb"([0-9]{1,20})-([0-9]{1,20}): ([0-9]{1,10})(?: |$)"
)


class Region(NamedTuple):
    """Bytes ``[start, end)`` and how many access checks found them accessed."""

    start: int
    end: int
    nr_accesses: int


class Snapshot(NamedTuple):
    """One aggregation window of one target.

    Attributes:
        target: Target id.
        start_ns: When it began.
        end_ns: When it ended.
        regions: Its regions.
    """

    target: int
    start_ns: int
    end_ns: int
    regions: list[Region]


def parse_duration(text: str) -> int:
    """Return nanoseconds for what damo prints: ``539809434100``, ``8 m 59.809 s``.

    Raises:
        ValueError: It is no duration.

    >>> parse_duration("8 m 59.809 s"), parse_duration("1,004 ns")
    (539809000000, 1004)
    """
    plain = text.replace(",", "").strip()
    if _DIGITS.match(plain):
        return int(plain)
    words = plain.split()
    if not words or len(words) % 2:
        raise ValueError(f"a time, got {text[:60]!r}")
    total = 0.0
    for number, unit in zip(words[::2], words[1::2], strict=True):
        found = _PART.match(f"{number} {unit}")
        if found is None or len(number) > 24:
            raise ValueError(f"a time, got {text[:60]!r}")
        total += float(found[1]) * _NS[unit]
    return round(total)


def _region(start: int, end: int, nr_accesses: int) -> Region:
    if not 0 <= start < end < _MAX or nr_accesses < 0:
        raise ValueError(f"START < END < 2^64, got {start:x}-{end:x}")
    return Region(start, end, nr_accesses)


class RawForm:
    """Decodes the text of ``damo report access --raw_form`` line by line."""

    _KEYS = (b"monitoring_start", b"monitoring_end", b"target_id", b"nr_regions")
    _OTHER = (b"base_time_absolute", b"data source", b"monitoring_duration")

    def __init__(self) -> None:
        self._base_ns = 0
        self._facts: dict[bytes, int] = {}
        self._regions: list[Region] = []

    def decode(self, line: bytes) -> Snapshot | None:
        """Return the snapshot that a line completes, if it completes one.

        Raises:
            ValueError: The line does not belong; the message says what would.
        """
        line = line.strip()
        if not line or line.startswith(b"#"):
            return None
        key, colon, value = line.partition(b":")
        if colon and key in (*self._KEYS, *self._OTHER):
            self._take_fact(key, value.decode("latin-1").strip())
            return self._complete() if key == b"nr_regions" else None
        found = _REGION.match(line)
        if found is None or b"nr_regions" not in self._facts:
            raise ValueError("'START-END (SIZE) NR_ACCESSES AGE' within a snapshot")
        self._regions.append(
            _region(int(found[1], 16), int(found[2], 16), int(found[3]))
        )
        return self._complete()

    def _take_fact(self, key: bytes, text: str) -> None:
        if key == b"base_time_absolute":
            self._base_ns = parse_duration(text)
        elif key == b"monitoring_start":
            if self._facts:
                raise ValueError(f"{self._missing()} more regions before this snapshot")
            self._facts[key] = self._base_ns + parse_duration(text)
        elif key == b"monitoring_end":
            self._facts[key] = self._base_ns + parse_duration(text)
        elif key == b"target_id":
            # damo writes None for a target that it cannot name.
            self._facts[key] = 0 if text == "None" else _whole(text)
        elif key == b"nr_regions":
            if b"monitoring_start" not in self._facts or (
                b"monitoring_end" not in self._facts
            ):
                raise ValueError("monitoring_start and monitoring_end before")
            self._facts[key] = _whole(text)

    def _missing(self) -> int:
        return self._facts.get(b"nr_regions", 0) - len(self._regions)

    def _complete(self) -> Snapshot | None:
        if self._missing():
            return None
        snapshot = Snapshot(
            self._facts.get(b"target_id", 0),
            self._facts[b"monitoring_start"],
            self._facts[b"monitoring_end"],
            self._regions,
        )
        self._facts, self._regions = {}, []
        return snapshot

    def finish(self) -> None:
        """See that nothing is left over.

        Raises:
            ValueError: The text ends within a snapshot.
        """
        if self._facts:
            raise ValueError(f"{max(self._missing(), 1)} more regions")


class Aggregated:
    """Decodes ``damon_aggregated`` lines, one region each, into snapshots.

    A snapshot ends when its last region was printed, and began when the target's
    one before ended; a target's first is taken to have lasted 100 ms.
    """

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._open: dict[int, tuple[int, int, list[Region]]] = {}

    def decode(self, line: bytes) -> Snapshot | None:
        """Return the snapshot that a line completes, if it completes one.

        Raises:
            ValueError: The line is another event, or its numbers do not fit.
        """
        line = line.strip()
        if not line or line.startswith(b"#"):
            return None
        found = _TRACEPOINT.search(line)
        if found is None:
            raise ValueError(
                "'TIME: damon:damon_aggregated: target_id=N nr_regions=N A-B: N AGE'"
            )
        time_ns = int(found[1]) * 1_000_000_000 + int(found[2].ljust(9, b"0"))
        target, nr_regions = int(found[3]), int(found[4])
        region = _region(int(found[5]), int(found[6]), int(found[7]))
        expected, begun, regions = self._open.get(target, (nr_regions, time_ns, []))
        if expected != nr_regions or nr_regions < 1:
            raise ValueError(f"nr_regions={expected} as on the line before")
        regions.append(region)
        if len(regions) < nr_regions:
            self._open[target] = (nr_regions, begun, regions)
            return None
        self._open.pop(target, None)
        start = self._ended.get(target, max(begun - DEFAULT_AGGREGATION_NS, 0))
        self._ended[target] = begun
        return Snapshot(target, min(start, begun), begun, regions)

    def finish(self) -> None:
        """Drop snapshots that recording cut short."""
        self._open.clear()


class _NrAccesses(msgspec.Struct):
    samples: int | str | None = None
    percent: float | str | None = None


class _JsonRegion(msgspec.Struct):
    start: int | str
    end: int | str
    nr_accesses: _NrAccesses | None = None


class _JsonSnapshot(msgspec.Struct):
    start_time: int | str
    end_time: int | str
    regions: list[_JsonRegion]


class _JsonIntervals(msgspec.Struct):
    sample_us: int | str
    aggr_us: int | str


class _JsonRecord(msgspec.Struct):
    snapshots: list[_JsonSnapshot]
    target_id: int | None = None
    intervals: _JsonIntervals | None = None


def decode_json(document: bytes) -> Iterator[Snapshot]:
    """Yield the snapshots of the JSON that ``damo record`` keeps, by their start.

    Raises:
        ValueError: It is no such document, or a number in it is none.
    """
    try:
        records = msgspec.json.decode(document, type=list[_JsonRecord])
    except msgspec.MsgspecError as error:
        raise ValueError(f"damo records: {error}") from error
    snapshots = [
        (record, snapshot) for record in records for snapshot in record.snapshots
    ]
    starts = [_time(snapshot.start_time) for _, snapshot in snapshots]
    for index in sorted(range(len(starts)), key=starts.__getitem__):
        record, snapshot = snapshots[index]
        regions = [
            _region(
                _whole(region.start),
                _whole(region.end),
                _samples(region.nr_accesses, record.intervals),
            )
            for region in snapshot.regions
        ]
        target = record.target_id if record.target_id is not None else 0
        yield Snapshot(target, starts[index], _time(snapshot.end_time), regions)


def _samples(found: _NrAccesses | None, intervals: _JsonIntervals | None) -> int:
    if found is None:
        return 0
    if found.samples is not None:
        return _whole(found.samples)
    if found.percent is None:
        return 0
    if intervals is None:
        raise ValueError("nr_accesses in samples, or intervals beside percent")
    checks = _whole(intervals.aggr_us) / max(_whole(intervals.sample_us), 1)
    percent = float(str(found.percent).replace(",", "").rstrip("% "))
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentage, got {found.percent!r}")
    return int(percent * checks / 100)


def _time(value: int | str) -> int:
    return parse_duration(str(value))


def _whole(value: int | str) -> int:
    text = str(value).replace(",", "")
    if not _DIGITS.match(text):
        raise ValueError(f"a whole number, got {text[:60]!r}")
    return int(text)

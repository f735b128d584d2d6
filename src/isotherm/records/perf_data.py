"""perf.data files: header, events, samples in order of time, AUX data.

Also what ``perf record -o -`` writes: there the events are described by records
among the others. Formats: tools/perf/util/header.h and
tools/perf/Documentation/perf.data-file-format.txt. A file that a killed perf
has left is read as far as it goes. The records are never believed: what does not
fit is counted in `PerfData.tally`, and no sample is made of it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.records.perf_attr import LEAST_BYTES, EventAttr, parse_attr
from isotherm.records.perf_features import FEATURE_BITS, Features
from isotherm.records.perf_file_samples import (
    EventReader,
    FileSamples,
    Rounds,
    joined,
    rows_of,
)
from isotherm.records.perf_file_threads import take_threads
from isotherm.records.perf_sample import (
    BROKEN_WORDS,
    KINDS,
    LOST,
    MALFORMED,
    TALLIES,
    USER_KIND,
    Words,
    index,
)
from isotherm.records.perf_zstd import Decompressor

MAGIC: Final = b"PERFILE2"
_MAGIC_SWAPPED: Final = MAGIC[::-1]
_MAGIC_OLD: Final = b"PERFFILE"
_HEADER: Final = struct.Struct("<8sQQQQQQQQ32s")
_PIPE_BYTES: Final = 16
_AUXTRACE: Final = struct.Struct("<QQQIII")
_CONVERSION: Final = struct.Struct("<QQQ")
#: Bytes of records decoded at once.
WINDOW_BYTES: Final = 16 << 20
_LEAST_WINDOW: Final = 256 << 10
_MOST_EVENTS: Final = 1 << 16
_MOST_RECORD_BYTES: Final = 1 << 16

# perf's own kinds of record (enum perf_user_event_type, tools/lib/perf).
_HEADER_ATTR, _TRACING_DATA, _FINISHED_ROUND = 64, 66, 68
_AUXTRACE_INFO, _AUXTRACE_DATA, _HEADER_FEATURE = 70, 71, 80
_TIME_CONV, _COMPRESSED, _COMPRESSED2 = 79, 81, 83


@dataclass(frozen=True, slots=True)
class FileEvent:
    """One event of a file.

    Attributes:
        attr: What it was opened with.
        ids: Numbers that its samples may carry.
    """

    attr: EventAttr
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AuxData:
    """One piece of an AUX area.

    Attributes:
        position: Byte of the file at which the payload begins.
        size: Bytes of payload.
        offset: Where in its stream it stood.
        stream: Which stream: the buffer's number.
        tid: Thread, -1 or 2^32-1: any.
        cpu: CPU, 2^32-1: any.
    """

    position: int
    size: int
    offset: int
    stream: int
    tid: int
    cpu: int


class PerfData:
    """A perf.data file, open for reading.

    Args:
        file: Seekable, at its start.
        name: For messages.

    Raises:
        TraceFormatError: It is none, or not of this byte order.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.events: list[FileEvent] = []
        self.features = Features()
        #: What was counted beside the samples, as `perf_sample` counts.
        self.tally = np.zeros(TALLIES, np.int64)
        #: Samples of no event of the file.
        self.unknown_ids = 0
        #: Pieces of AUX areas met so far, and the kind of tracer (PERF_AUXTRACE_*).
        self.aux: list[AuxData] = []
        self.aux_type: int | None = None
        #: Shift, factor and start that make a timer's ticks nanoseconds of perf.
        self.time_conv: tuple[int, int, int] | None = None
        #: Process of each thread that a record tells of, in a file with AUX data;
        #: of a number that was given out again, the last one's.
        self.process_of_thread: dict[int, int] = {}
        self._zstd: Decompressor | None = None
        self._inner = b""  # decompressed, not whole yet
        self._readers: list[EventReader] = []
        self._ids = np.empty(0, np.uint64)
        self._event_of_id = np.empty(0, np.int64)
        self._at = np.empty(0, np.int64)
        file.seek(0, 2)
        self._bytes = file.tell()
        self._begin, self._end = self._read_header()

    def fail(self, where: str, found: object, expected: str) -> TraceFormatError:
        """Return the error for a place in the file."""
        return TraceFormatError(
            f"{self._name}: {where}: got {found}, expected {expected}"
        )

    @property
    def lost(self) -> int:
        """Samples that were dropped when recording, or that cannot be read."""
        broken = -(-int(self.tally[BROKEN_WORDS]) // 8)
        return int(self.tally[LOST] + self.tally[MALFORMED]) + broken + self.unknown_ids

    def read_aux(self, piece: AuxData) -> bytes:
        """Return the payload of a piece, shorter where the file ends before it."""
        return self._read_at(piece.position, piece.size)

    # -- header ------------------------------------------------------------

    def _read_at(self, position: int, size: int) -> bytes:
        if position >= self._bytes:
            return b""
        self._file.seek(position)
        return self._file.read(min(size, self._bytes - position))

    def _read_header(self) -> tuple[int, int]:
        """Read header, events and features; return where the records are."""
        head = self._read_at(0, _HEADER.size)
        magic = head[:8]
        if magic in (_MAGIC_SWAPPED, _MAGIC_OLD):
            raise self.fail(
                "header",
                f"{magic!r}",
                "a file of perf 3.0 or later from a little-endian machine",
            )
        if magic != MAGIC or len(head) < _PIPE_BYTES:
            raise self.fail("header", f"{magic!r}", f"{MAGIC!r}")
        if int.from_bytes(head[8:16], "little") == _PIPE_BYTES:
            return _PIPE_BYTES, self._bytes
        if len(head) < _HEADER.size:
            raise self.fail("header", f"{len(head)} bytes", f"{_HEADER.size}")
        _, _, attr_size, attrs, attrs_size, data, data_size, _, _, bits = (
            _HEADER.unpack(head)
        )
        self._read_events(attrs, attrs_size, attr_size)
        end = min(self._bytes, data + data_size)
        if data_size == 0:  # perf was killed before it wrote the header anew
            end = self._bytes
        else:
            self._read_features(data + data_size, bits)
        return min(data, self._bytes), end

    def _read_events(self, position: int, size: int, each: int) -> None:
        if not LEAST_BYTES + 16 <= each <= 1 << 16:
            raise self.fail("header", f"events of {each} bytes", "80 or more")
        table = self._read_at(position, min(size, each * _MOST_EVENTS))
        for at in range(0, len(table) - each + 1, each):
            entry = table[at : at + each]
            where, ids_size = struct.unpack_from("<QQ", entry, each - 16)
            ids = self._read_at(where, min(ids_size, 8 * _MOST_EVENTS))
            self._add_event(entry[: each - 16], ids)
        if not self.events:
            raise self.fail("header", "no event", "one or more")

    def _add_event(self, attr: bytes, ids: bytes) -> None:
        try:
            parsed = parse_attr(attr)
        except ValueError as error:
            raise self.fail(
                f"event {len(self.events)}", f"{error}", "an event"
            ) from error
        whole = len(ids) // 8 * 8
        numbers = np.frombuffer(ids[:whole], np.uint64).tolist()
        self.events.append(FileEvent(parsed, tuple(numbers)))

    def _read_features(self, position: int, bits: bytes) -> None:
        mask = int.from_bytes(bits, "little")
        there = [bit for bit in range(FEATURE_BITS) if mask >> bit & 1]
        table = self._read_at(position, 16 * len(there))
        for bit, (where, size) in zip(
            there,
            struct.iter_unpack("<QQ", table[: len(table) // 16 * 16]),
            strict=False,
        ):
            self.features.take(bit, self._read_at(where, min(size, 1 << 24)))

    def event_name(self, number: int) -> str:
        """Return an event's name; its type and configuration where there is none."""
        event = self.events[number]
        for one in event.ids[:1]:
            if one in self.features.event_names:
                return self.features.event_names[one]
        return f"{event.attr.type}/{event.attr.config:#x}"

    # -- records -----------------------------------------------------------

    def samples(self, least: int = 1 << 16) -> Iterator[FileSamples]:
        """Yield the samples in order of time, once.

        perf reads its rings in rounds: what a ring holds when a round ends was
        written after everything of the round before the last one. So at the end of
        a round all up to the latest time of the round before can go out, sorted
        (ordered-events.c).

        Args:
            least: Samples that are handed on at once, but for the last ones.
        """
        order = Rounds(least)
        for found in self._walk():
            if isinstance(found, FileSamples):
                order.add(found)
            else:
                yield from order.end_round()
        yield from order.finish()

    def _walk(self) -> Iterator[FileSamples | None]:
        """Yield samples in order of the file, and None at the end of each round."""
        position, step = self._begin, _LEAST_WINDOW
        while position < self._end:
            data = self._read_at(position, min(step, self._end - position))
            items: list[FileSamples | None] = []
            used, skip = self._window(data, position, items)
            yield from items
            if used == 0:  # nothing whole is left
                self.tally[BROKEN_WORDS] += -(-(self._end - position) // 8)
                break
            position += used + skip
            # A file of small pieces with payloads between is read in small windows.
            whole = used > len(data) - _MOST_RECORD_BYTES
            step = min(4 * step, WINDOW_BYTES) if whole else _LEAST_WINDOW
        self.tally[BROKEN_WORDS] += -(-len(self._inner) // 8)
        self._inner = b""

    def _window(
        self, data: bytes, position: int, items: list[FileSamples | None]
    ) -> tuple[int, int]:
        """Take records up to one that carries a payload or is not whole.

        Returns:
            Bytes taken, and bytes of payload behind them.
        """
        words, at = np.frombuffer(data[: len(data) // 8 * 8], np.uint64), 0
        while at < len(words):
            at = self._index(words, at, items)
            if at >= len(words):
                break
            head = int(words[at])
            kind, size = head & 0xFFFFFFFF, head >> 48
            if kind < USER_KIND or not 8 <= size <= len(data) - 8 * at:
                break
            self.tally[KINDS] += 1
            after = 8 * at + size
            body = data[8 * at + 8 : after]
            skip = 0
            if kind == _FINISHED_ROUND:
                items.append(None)
            elif kind in (_COMPRESSED, _COMPRESSED2):
                self._inflate(kind, body, items)
            else:
                skip = self._own(kind, body, position + after)
            if skip or size % 8:  # compressed ones of old versions end anywhere
                return after, skip
            at = after // 8
        return 8 * at, 0

    def _index(self, words: Words, at: int, items: list[FileSamples | None]) -> int:
        """Take samples up to a record of perf's own; return its place."""
        readers = self._readers_now()
        least = min((reader.least for reader in readers), default=1)
        room = (len(words) - at) // least + 1
        if len(self._at) < room:
            self._at = np.empty(room, np.int64)
        found, stop = index(words, at, least, self._at, self.tally)
        if self.aux_type is not None:
            take_threads(words[at:stop], self.process_of_thread)
        if found and readers:
            items.append(self._decode(words, self._at[:found], readers))
        else:
            self.unknown_ids += int(found)
        return int(stop)

    def _readers_now(self) -> list[EventReader]:
        if len(self._readers) != len(self.events):
            self._readers = [EventReader(event.attr) for event in self.events]
            places = {reader.id_word for reader in self._readers}
            if len(self.events) > 1 and (len(places) > 1 or None in places):
                raise self.fail(
                    "events", "ids in different places", "events with sample ids"
                )
            ids = [np.array(e.ids, np.uint64) for e in self.events]
            number = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
            joined = np.concatenate([*ids, np.empty(0, np.uint64)])
            order = np.argsort(joined, kind="stable")
            self._ids, self._event_of_id = joined[order], number[order]
        return self._readers

    def _decode(
        self, words: Words, at: NDArray[np.int64], readers: list[EventReader]
    ) -> FileSamples:
        event = np.zeros(len(at), np.int64)
        if len(readers) > 1:
            wanted = words[at + (readers[0].id_word or 0)]
            event[:] = -1
            if len(self._ids):
                place = np.searchsorted(self._ids, wanted)
                place[place == len(self._ids)] = 0
                known = self._ids[place] == wanted
                event[known] = self._event_of_id[place[known]]
            self.unknown_ids += int((event < 0).sum())
        parts, places = [], []
        for number in np.unique(event[event >= 0]).tolist():
            mine = at[event == number] if len(readers) > 1 else at
            columns = readers[number].read(words, mine, self.tally)
            which = np.full(columns.shape[1], number, np.uint16)
            parts.append(FileSamples(columns, which))
            places.append(mine[: len(which)])
        if len(parts) == 1:
            return parts[0]
        return rows_of(joined(parts), np.argsort(np.concatenate([*places, at[:0]])))

    def _inflate(self, kind: int, data: bytes, items: list[FileSamples | None]) -> None:
        """Decompress a record and take what is whole of the records in it."""
        if kind == _COMPRESSED2:
            size = int.from_bytes(data[:8], "little")
            if size > len(data) - 8:
                self.tally[MALFORMED] += 1
                return
            data = data[8 : 8 + size]
        if self._zstd is None:
            self._zstd = Decompressor(self.features.mmap_bytes)
        out = self._zstd.take(data)
        if out is None:
            self.tally[MALFORMED] += 1
            return
        held = self._inner + out
        words = np.frombuffer(held[: len(held) // 8 * 8], np.uint64)
        at = 0
        while at < len(words):
            at = self._index(words, at, items)
            head = int(words[at]) if at < len(words) else 0
            if (
                head & 0xFFFFFFFF < USER_KIND
                or not 8 <= head >> 48 <= len(held) - 8 * at
            ):
                break
            self.tally[KINDS] += 1
            at += -(-(head >> 48) // 8)
        self._inner = held[8 * at :]
        if len(self._inner) > _MOST_RECORD_BYTES:  # broken, and never whole again
            self.tally[BROKEN_WORDS] += -(-len(self._inner) // 8)
            self._inner = b""
            self._zstd.broken = True

    def _own(self, kind: int, data: bytes, after: int) -> int:
        """Take one of perf's own records; return bytes of payload behind it."""
        if kind == _AUXTRACE_DATA and len(data) >= _AUXTRACE.size:
            size, offset, _, stream, tid, cpu = _AUXTRACE.unpack_from(data)
            there = min(size, self._end - after)
            self.tally[MALFORMED] += there < size
            self.aux.append(AuxData(after, there, offset, stream, tid, cpu))
            return int(there)
        if kind == _TRACING_DATA and len(data) >= 4:
            size = int.from_bytes(data[:4], "little")
            return min(-(-size // 8) * 8, max(0, self._end - after))
        if kind == _HEADER_ATTR and len(data) >= LEAST_BYTES:
            size = int.from_bytes(data[4:8], "little")
            if not LEAST_BYTES <= size <= len(data) or len(self.events) >= _MOST_EVENTS:
                self.tally[MALFORMED] += 1
            else:
                self._add_event(data[:size], data[size:])
        elif kind == _HEADER_FEATURE and len(data) >= 8:
            self.features.take(int.from_bytes(data[:8], "little"), data[8:])
        elif kind == _TIME_CONV and len(data) >= _CONVERSION.size:
            shift, factor, zero = _CONVERSION.unpack_from(data)
            if shift <= 32 and 0 < factor < 1 << 32:
                self.time_conv = shift, factor, zero
            else:
                self.tally[MALFORMED] += 1
        elif kind == _AUXTRACE_INFO and len(data) >= 4:
            self.aux_type = int.from_bytes(data[:4], "little")
        return 0

"""Arm's SPE data in a perf.data file: records of all buffers, in order of time."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.records.perf_data import AuxData, PerfData
from isotherm.records.perf_file_threads import processes_of
from isotherm.records.perf_sample import Words
from isotherm.records.spe import COLUMNS, Column, decode_spe

#: PERF_AUXTRACE_ARM_SPE (tools/perf/util/auxtrace.h).
ARM_SPE: Final = 4


@dataclass(frozen=True, slots=True)
class FileSpe:
    """Records of a file, in order of time.

    Attributes:
        columns: As of `SpeRecords`, uint64[columns, n]; times are nanoseconds where
            ``in_ns``, else ticks of the timer.
        cpu: CPU of each, -1 unknown, int32[n].
        pid: Process of each: of the thread in its context, int32[n].
        broken_bytes: Bytes that no record was made of.
        in_ns: Whether the file says how long a tick is.
    """

    columns: Words
    cpu: NDArray[np.int32]
    pid: NDArray[np.int32]
    broken_bytes: int
    in_ns: bool


def read_spe(data: PerfData) -> FileSpe:
    """Return the SPE records of a file whose samples have been read.

    Pieces of one buffer are joined where they were cut.
    """
    streams: dict[int, list[AuxData]] = {}
    for piece in data.aux:
        streams.setdefault(piece.stream, []).append(piece)
    columns: list[Words] = [np.empty((COLUMNS, 0), np.uint64)]
    cpus: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    broken = 0
    for pieces in streams.values():
        pieces.sort(key=lambda piece: piece.offset)
        raw = b"".join(data.read_aux(piece) for piece in pieces)
        found = decode_spe(np.frombuffer(raw, np.uint8), pieces[0].offset)
        broken += found.broken_bytes
        columns.append(found.columns)
        cpus.append(np.full(len(found), pieces[0].cpu, np.int64))
    joined, cpu = np.concatenate(columns, axis=1), np.concatenate(cpus)
    order = np.argsort(joined[Column.TIME], kind="stable")
    joined, cpu = joined[:, order], cpu[order]
    cpu[cpu >= 1 << 31] = -1
    if data.time_conv is not None:
        joined[Column.TIME] = to_ns(joined[Column.TIME], data.time_conv)
    pid = processes_of(joined[Column.CONTEXT], data.process_of_thread)
    in_ns = data.time_conv is not None
    return FileSpe(joined, cpu.astype(np.int32), pid, broken, in_ns)


def to_ns(ticks: Words, conversion: tuple[int, int, int]) -> Words:
    """Return ticks of a timer as nanoseconds of perf's clock, uint64[n].

    As tsc_to_perf_time() in tools/perf/util/tsc.c does.

    Args:
        ticks: uint64[n].
        conversion: Shift, factor and start, of the file.

    >>> to_ns(np.array([1000], np.uint64), (0, 40, 5)).tolist()  # of 25 MHz
    [40005]
    """
    shift, factor, zero = (np.uint64(one) for one in conversion)
    low = ticks & ((np.uint64(1) << shift) - np.uint64(1))
    found: Words = zero + (ticks >> shift) * factor + (low * factor >> shift)
    return found

"""Ten million damaged perf.data files: read or refused, and no address invented."""

import io
import struct

import pytest
import zstandard

from isotherm.core.errors import TraceFormatError
from isotherm.records.perf_data import PerfData
from isotherm.records.perf_fields import Field
from isotherm.records.perf_file_spe import read_spe
from tests.records.mutation import SEEDS, batches, volume
from tests.records.perf_files import (
    FINISHED_ROUND,
    attr,
    aux_info,
    auxtrace,
    memory,
    numa,
    perf_data,
    time_conv,
)
from tests.records.samples import between, sample
from tests.records.spe_packets import access

#: Every address of a valid input; what comes out of a mutated one is its bytes.
PAGES = [0x7F00_0000_1000 + 4096 * n for n in range(8)]
BOTH = Field.IDENTIFIER | Field.TID | Field.TIME | Field.ADDR
#: PERF_RECORD_COMPRESSED.
COMPRESSED = 81
#: A stream of zstd begins so.
ZSTD = b"\x28\xb5\x2f\xfd"


def one(n: int, which: int) -> bytes:
    """Return a sample of one of three events."""
    row = {Field.IDENTIFIER: which, Field.TIME: n, Field.ADDR: PAGES[n % 8]}
    kind = BOTH | (Field.CALLCHAIN if which == 3 else Field(0))
    return sample(kind, row | {Field.CALLCHAIN: [n] * 2})


def small_files() -> list[bytes]:
    """Return perf.data files of every kind that is read."""
    events = [(attr(BOTH), [1, 2]), (attr(BOTH | Field.CALLCHAIN), [3])]
    body = b"".join(one(n, 1 + n % 3) for n in range(6)) + FINISHED_ROUND
    features = {14: numa({0: "0-1"}), 22: memory(1 << 27, {0: 5})}
    stream = zstandard.ZstdCompressor().compressobj()
    packed = stream.compress(body) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    packed += bytes(-len(packed) % 8)
    packed = struct.pack("<IHH", COMPRESSED, 0, 8 + len(packed)) + packed
    pipe = struct.pack("<8sQ", b"PERFILE2", 16)
    pipe += struct.pack("<IHH", 64, 0, 8 + 128 + 8) + attr(BOTH) + struct.pack("<Q", 1)
    area = aux_info(4) + time_conv(9, 20480, 7) + auxtrace(access(1))
    return [
        perf_data(events, body + between()[1] + body, features),
        perf_data(events, area + body, features),
        perf_data(events[:1], one(1, 1) * 3),
        perf_data(events, packed, features),
        pipe + one(1, 1) * 2 + FINISHED_ROUND,
    ]


def test_the_files_are_well_formed() -> None:
    """What is damaged afterwards can be read before: every kind gives samples."""
    found = []
    for data in small_files():
        file = PerfData(io.BytesIO(data), "x")
        found.append(sum(len(samples) for samples in file.samples()))
    assert [12, 6, 3, 6, 2] == found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_files_survive(seed: int) -> None:
    """A file is read or refused in words; an address that comes out is among its bytes.

    Not so where a part is compressed: perf's stream has no checksum, so that damage
    may come out as other numbers. What cannot be read is counted: a file of which
    samples are missing says so.
    """
    files = small_files()
    count = max(2_000, volume(8_000)) // len(SEEDS)
    read = refused = damaged = 0
    for batch in batches(files, count, seed, rows=4096, room=16):
        for row in range(len(batch)):
            data = batch.one(row)
            try:
                file = PerfData(io.BytesIO(data), "x")
                found = list(file.samples())
                spe = read_spe(file) if file.aux else None
            except TraceFormatError:
                refused += 1
                continue
            read += 1
            lost = file.lost
            assert lost >= 0, batch.name(row)
            damaged += lost > 0
            assert spe is None or spe.broken_bytes >= 0, batch.name(row)
            if ZSTD in data:
                continue
            for samples in found:
                for address in samples.column(Field.ADDR).tolist():
                    assert address.to_bytes(8, "little") in data, batch.name(row)
    assert read
    assert refused
    assert damaged

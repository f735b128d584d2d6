"""perf.data files: built here, and recorded by perf and compared with perf script."""

import io
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TraceFormatError
from isotherm.records.perf_data import PerfData
from isotherm.records.perf_features import parse_list
from isotherm.records.perf_fields import Field, Kind
from isotherm.records.perf_file_samples import FileSamples, joined
from tests.records.perf_files import (
    FINISHED_ROUND,
    attr,
    aux_info,
    auxtrace,
    memory,
    numa,
    perf_data,
    string,
)
from tests.records.samples import between, record, sample

BASE = Field.IDENTIFIER | Field.TID | Field.TIME | Field.ADDR
LOADS = BASE | Field.WEIGHT_STRUCT | Field.DATA_SRC | Field.PHYS_ADDR
STORES = BASE | Field.CALLCHAIN | Field.CPU | Field.PERIOD
EVENTS = [(attr(LOADS), [11, 12]), (attr(STORES, config=5, size=112), [13])]


def load(time: int, page: int, one: int = 11) -> bytes:
    """Return a sample of the first event."""
    row = {Field.IDENTIFIER: one, Field.TIME: time, Field.ADDR: page << 12}
    row |= {Field.TID: 7 | 8 << 32, Field.PHYS_ADDR: (page + 1) << 12}
    return sample(
        LOADS, row | {Field.DATA_SRC: 0x42, Field.WEIGHT_STRUCT: 300 | 5 << 32}
    )


def store(time: int, page: int) -> bytes:
    """Return a sample of the second event, with a call chain of ``page`` places."""
    row = {Field.IDENTIFIER: 13, Field.TIME: time, Field.ADDR: page << 12, Field.CPU: 3}
    return sample(STORES, row | {Field.CALLCHAIN: [1] * page, Field.PERIOD: 99})


def read(data: bytes) -> tuple[PerfData, FileSamples]:
    """Return a file and all its samples."""
    file = PerfData(io.BytesIO(data), "x.data")
    return file, joined(list(file.samples()))


def pages(samples: FileSamples) -> list[int]:
    """Return the pages, in order."""
    return (samples.column(Field.ADDR) >> np.uint64(12)).tolist()


def test_two_events_and_everything_between() -> None:
    """Each sample is read as its own event says, what lies between is counted."""
    data = load(1, 5) + b"".join(between()) + store(2, 6) + load(3, 7, 12) + store(4, 0)
    file, got = read(perf_data(EVENTS, data))
    assert [5, 6, 7, 0] == pages(got)
    assert [0, 1, 0, 1] == got.event.tolist()
    assert [6 << 12, 0, 8 << 12, 0] == got.column(Field.PHYS_ADDR).tolist()
    assert [300, 0, 300, 0] == got.weight.tolist()
    assert [0, 99, 0, 99] == got.column(Field.PERIOD).tolist()
    assert [7, 0, 7, 0] == got.pid.tolist()
    assert [0, 3, 0, 3] == got.cpu.tolist()
    assert 20 == file.lost
    assert ["1/0x2", "1/0x5"] == [file.event_name(i) for i in range(2)]


def test_rounds_put_samples_in_order_of_time() -> None:
    """Rings are written one behind the other; what comes out is in order of time."""
    rounds = [[1, 4, 7, 2, 3], [9, 12, 8, 10], [15, 11], [14]]
    data = b"".join(
        b"".join(load(t, t) for t in one) + FINISHED_ROUND for one in rounds
    )
    file = PerfData(io.BytesIO(perf_data(EVENTS, data)), "x")
    parts = [pages(part) for part in file.samples(least=1)]
    assert sorted(t for one in rounds for t in one) == [t for one in parts for t in one]
    assert 3 <= len(parts)


def test_ids_that_no_event_has_are_lost() -> None:
    """A sample of an event that the file does not describe is not guessed at."""
    file, got = read(perf_data(EVENTS, load(1, 5, one=99) + load(2, 6)))
    assert ([6], 1) == (pages(got), file.lost)


def test_features_tell_nodes_of_cpus_and_of_memory() -> None:
    """Sections name the nodes of CPUs and memory; a damaged one is left out."""
    features = {
        3: string("host"),
        9: b"\xff\xff\xff\x7f",
        11: struct.pack("<I", 2) + string("perf") + string("record"),
        14: numa({0: "0-1,4", 2: "2,3"}),
        22: memory(1 << 27, {0: 0b101, 1: 0b10}),
    }
    file, _ = read(perf_data(EVENTS, load(1, 5), features))
    found = file.features
    assert ("host", None) == (found.hostname, found.cpuid)
    assert ("perf", "record") == found.cmdline
    assert [0, 0, 2, 2, 0] == found.node_of_cpu().tolist()
    address = np.array([5, 1 << 27, (3 << 27) - 1, 3 << 27, 2**64 - 1], np.uint64)
    assert [0, 1, 0, -1, -1] == found.node_of_physical(address).tolist()


def test_payloads_of_aux_areas_are_kept_for_others() -> None:
    """AUXTRACE payloads are passed over, whatever is in them, and can be read."""
    payload = load(9, 9) + b"odd"
    data = aux_info(4) + load(1, 5) + auxtrace(payload, offset=64, cpu=2) + load(2, 6)
    file, got = read(perf_data(EVENTS, data))
    assert [5, 6] == pages(got)
    assert (4, 0) == (file.aux_type, file.lost)
    (piece,) = file.aux
    assert (64, 2, payload) == (piece.offset, piece.cpu, file.read_aux(piece))


def test_a_file_that_was_never_finished() -> None:
    """Without the size of its records, or cut short: read as far as it goes."""
    whole = perf_data(EVENTS, load(1, 5) + load(2, 6), data_size=0)
    file, got = read(whole)
    assert ([5, 6], 0) == (pages(got), file.lost)
    file, got = read(whole[:-8])
    assert [5] == pages(got)
    assert file.lost > 0


def test_a_pipe_describes_its_events_in_records() -> None:
    """What perf record -o - writes has events among the records."""
    head = b"PERFILE2" + struct.pack("<Q", 16)
    for one, ids in EVENTS:
        head += record(64, one + struct.pack(f"<{len(ids)}Q", *ids), 0)
    head += record(80, struct.pack("<Q", 14) + numa({0: "0"}), 0)
    file, got = read(head + load(1, 5) + store(2, 6))
    assert [5, 6] == pages(got)
    assert {0: (0,)} == file.features.cpus_of_node


@pytest.mark.parametrize("kind", [81, 83])
def test_compressed_records(kind: int) -> None:
    """One zstd stream over records that end anywhere, of both versions."""
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    stream = zstandard.ZstdCompressor().compressobj()
    plain = b"".join(load(t, t) for t in range(1, 900))
    data = b""
    for at in range(0, len(plain), 1000):
        piece = stream.compress(plain[at : at + 1000])
        piece += stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        if kind == 83:
            size = len(piece)
            piece = struct.pack("<Q", size) + piece + bytes(-size % 8)
        data += record(kind, piece, 0) + (FINISHED_ROUND if at % 3000 == 0 else b"")
    file, got = read(perf_data(EVENTS, data))
    assert (list(range(1, 900)), 0) == (pages(got), file.lost)
    damaged = bytearray(perf_data(EVENTS, data))
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = b"\xff" * 64
    file, got = read(bytes(damaged))
    assert len(got) < 899
    assert file.lost > 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "PERFILE2"),
        (b"2ELIFREP" + bytes(200), "little-endian"),
        (b"PERFFILE" + bytes(200), "perf 3.0"),
        (b"PERFILE2" + bytes(40), "104"),
        (b"PERFILE2" + struct.pack("<QQQ72x", 104, 144, 104), "one or more"),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes, expected: str) -> None:
    """One sentence says what was found and what was expected."""
    with pytest.raises(TraceFormatError, match=expected):
        read(data)


def test_lists_of_cpus() -> None:
    """As the kernel writes them; nonsense is refused."""
    assert (0, 1, 2, 8) == parse_list("0-2,8")
    assert () == parse_list("")
    with pytest.raises(ValueError, match="no range"):
        parse_list("3-1")


# -- beside perf itself -----------------------------------------------------

ARGUMENTS = {
    "one event": ["-e", "page-faults", "-d"],
    "two events": ["-e", "page-faults,minor-faults", "-d", "--phys-data"],
    "call chains": ["-e", "minor-faults", "-d", "-g", "--phys-data", "--sample-cpu"],
    "compressed": ["-e", "page-faults", "-d", "-z"],
    "registers": ["-e", "minor-faults", "-d", "--intr-regs=ip,sp", "--phys-data"],
}
TOUCH = "m = bytearray(997 * 4096)"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a function that records with some arguments of perf."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    folder = tmp_path_factory.mktemp("perf")

    def record_with(name: str) -> Path:
        path = folder / f"{name.replace(' ', '-')}.data"
        command = [perf, "record", "-c", "1", "-o", path, *ARGUMENTS[name]]
        command += ["--", shutil.which("python3"), "-S", "-c", TOUCH]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"perf cannot record here: {done.stderr.strip()[-200:]}")
        return path

    return record_with


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_same_as_perf_script(recorded, name: str) -> None:
    """Process, thread, time, event and address of every sample, in perf's order."""
    path = recorded(name)
    with path.open("rb") as stream:
        file = PerfData(stream, str(path))
        got = joined(list(file.samples()))
        names = [file.event_name(i) for i in range(len(file.events))]
    physical = bool(file.events[0].attr.sample_type & Field.PHYS_ADDR)
    fields = "pid,tid,time,event,addr" + (",phys_addr" if physical else "")
    command = ["perf", "script", "--ns", "-i", path, "-G", "-F", fields]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shape = re.compile(
        r"\s*(\d+)/(\d+)\s+(\d+)\.(\d{9}):\s+(\S+):\s+([0-9a-f]+)\s*([0-9a-f]+)?"
    )
    expected = []
    for line in text.splitlines():
        found = shape.match(line)
        assert found, line
        time_ns = int(found[3]) * 10**9 + int(found[4])
        row = (int(found[1]), int(found[2]), time_ns, found[5], int(found[6], 16))
        expected.append((*row, int(found[7], 16) if physical else 0))
    rows = zip(
        got.pid.tolist(),
        got.tid.tolist(),
        got.column(Field.TIME).tolist(),
        [names[i] for i in got.event.tolist()],
        got.column(Field.ADDR).tolist(),
        got.column(Field.PHYS_ADDR).tolist(),
        strict=True,
    )
    assert len(expected) > 997
    assert sorted(expected) == sorted(rows)
    times = got.column(Field.TIME)
    assert (times[1:] >= times[:-1]).all()
    assert 0 == file.lost
    assert int(file.tally[4 + Kind.EXIT]) + len(got) > 997

"""perf.data as a trace, and the same recording as a source of hints."""

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TraceFormatError
from isotherm.records.perf_fields import Field
from isotherm.trace.format import TraceReader
from isotherm.trace.importing import import_trace
from tests.records.perf_files import (
    attr,
    aux_info,
    auxtrace,
    comm,
    fork,
    mmap2,
    numa,
    perf_data,
    time_conv,
)
from tests.records.samples import sample
from tests.records.spe_packets import access, aligned

LOADS = (
    Field.IDENTIFIER | Field.TID | Field.TIME | Field.ADDR | Field.CPU | Field.DATA_SRC
)
FEATURES = {14: numa({0: "0,1", 1: "2"})}


def at(
    time: int, page: int, *, pid: int = 7, cpu: int = 0, store: bool = False
) -> bytes:
    """Return a sample."""
    row = {Field.IDENTIFIER: 1, Field.TIME: time, Field.ADDR: page << 12}
    row |= {Field.TID: pid | pid << 32, Field.CPU: cpu}
    return sample(LOADS, row | {Field.DATA_SRC: (4 if store else 2) | 13 << 33})


def imported(tmp_path: Path, data: bytes):
    """Return what a file becomes: its description and its columns."""
    path = tmp_path / "perf.data"
    path.write_bytes(data)
    info = import_trace(path, tmp_path / "out.parquet")
    reader = TraceReader(Path(info.path))
    chunks = list(reader.chunks())
    raw = reader.raw_pages()
    assert raw is not None
    return info, {
        "page": raw[np.concatenate([c.page for c in chunks])].tolist(),
        "write": np.concatenate([c.write for c in chunks]).tolist(),
        "time": np.concatenate([c.time_ns for c in chunks]).tolist(),
        "who": np.concatenate([c.initiator for c in chunks]).tolist(),
    }


RECORDS = (
    at(1000, 5)
    + at(1400, 6, cpu=2, store=True)
    + at(1200, 7, cpu=9)
    + at(1300, 0)
    + at(1500, 5, pid=8)
)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_samples_become_accesses(tmp_path, pack) -> None:
    """In order of time, a space for each process, nodes as initiators."""
    data = perf_data([(attr(LOADS), [1])], RECORDS, FEATURES)
    info, got = imported(tmp_path, pack(data))
    assert [5, 7, 6, 5 | 1 << 52] == got["page"]
    assert [0, 0, 1, 0] == got["write"]
    assert [0, 200, 400, 500] == got["time"]
    assert [0, 255, 1, 0] == got["who"]
    assert "perf-data" == info.provenance.source
    assert "1" == info.provenance.details["samples_without_address"]


def test_spe_data_become_accesses(tmp_path) -> None:
    """Arm's records come from the AUX data, joined where a buffer was cut."""
    area = aligned(access(5, time=30)) + aligned(access(6, time=40, store=True))
    data = aux_info(4) + auxtrace(area[:70], stream=0)
    data += auxtrace(area[70:], offset=70, stream=0)
    data += auxtrace(aligned(access(7, time=35)), stream=1, cpu=2)
    whole = perf_data([(attr(LOADS), [1])], data, FEATURES)
    info, got = imported(tmp_path, whole)
    assert [5, 7, 6] == got["page"]
    assert [0, 0, 1] == got["write"]
    assert "ticks" in info.provenance.details["times"]


@pytest.mark.parametrize("told", [comm, fork, mmap2])
def test_threads_of_a_process_share_their_pages(tmp_path, told) -> None:
    """The context of SPE is a thread: what the file tells of it names the process."""
    area = b"".join(aligned(access(5, time=30 + tid, tid=tid)) for tid in (70, 71, 90))
    data = aux_info(4) + comm(70, 70) + told(70, 71) + auxtrace(area)
    info, got = imported(tmp_path, perf_data([(attr(LOADS), [1])], data, FEATURES))
    assert [5, 5, 5 | 1 << 52] == got["page"]
    assert "70,90" == info.provenance.details["processes"]


def test_ticks_become_nanoseconds_where_the_file_says_how(tmp_path) -> None:
    """Of a timer of 25 MHz a tick is 40 ns."""
    data = aux_info(4) + time_conv(0, 40, 7)
    data += auxtrace(aligned(access(5, time=30)) + aligned(access(6, time=40)))
    info, got = imported(tmp_path, perf_data([(attr(LOADS), [1])], data, FEATURES))
    assert ([5, 6], [0, 400]) == (got["page"], got["time"])
    assert "times" not in info.provenance.details


def test_aux_data_may_claim_any_place(tmp_path) -> None:
    """A place of 64 bits, as a damaged file has it, ends no import."""
    data = aux_info(4) + auxtrace(aligned(access(5, time=30)), offset=(1 << 64) - 64)
    _, got = imported(tmp_path, perf_data([(attr(LOADS), [1])], data, FEATURES))
    assert [5] == got["page"]


def test_a_file_without_addresses_is_refused(tmp_path) -> None:
    """No access: one sentence; a broken header: one, too."""
    with pytest.raises(TraceFormatError, match="no accesses"):
        imported(tmp_path, perf_data([(attr(LOADS), [1])], at(5, 0)))
    with pytest.raises(TraceFormatError, match="little-endian"):
        imported(tmp_path, b"2ELIFREP" + bytes(200))


@pytest.mark.slow
def test_a_recording_of_perf_itself(tmp_path) -> None:
    """A program that touches a prime number of pages leaves at least so many."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    path = tmp_path / "perf.data"
    program = ["python3", "-S", "-c", "m = bytearray(1009 * 4096)"]
    command = ["perf", "record", "-e", "page-faults", "-c", "1", "-d", "-o", path]
    done = subprocess.run([*command, "--", *program], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"perf cannot record here: {done.stderr[-200:]!r}")
    info = import_trace(path, tmp_path / "out.parquet")
    assert 1009 <= info.pages <= info.accesses
    assert "page-faults" == info.provenance.details["events"]

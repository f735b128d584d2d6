"""Decoding ahead: the same items, the same errors, and no thread left behind."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TraceFormatError
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.trace.ahead import read_ahead
from isotherm.trace.format import Provenance, TraceReader, TraceWriter
from isotherm.trace.stream import Pace
from isotherm.workloads.recorded import RecordedWorkload


def decoders() -> list[threading.Thread]:
    """Return the threads that decode at present."""
    return [t for t in threading.enumerate() if t.name.startswith("isotherm-decode")]


@pytest.fixture
def trace(tmp_path: Path) -> TraceReader:
    """Return a trace of 100,000 accesses to 1,000 pages, with all columns."""
    rng = np.random.default_rng(1)
    with TraceWriter(tmp_path / "t.parquet", Provenance(tool="test")) as writer:
        writer.append(
            rng.integers(0, 1000, 100_000),
            write=rng.integers(0, 2, 100_000),
            initiator=rng.integers(0, 3, 100_000),
            time_ns=np.arange(100_000) * 1000,
        )
    return TraceReader(tmp_path / "t.parquet")


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_items_come_in_order(depth: int) -> None:
    """All items come, in their order, whatever the depth."""
    assert list(range(20)) == list(read_ahead(iter(range(20)), depth))
    assert [] == decoders()


def test_no_more_than_depth_is_made() -> None:
    """The thread makes as many items as depth says beyond the one in use, no more."""
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == 4:
                enough.set()
            yield i

    ahead = read_ahead(items(), 4)
    assert 0 == next(ahead)
    assert enough.wait(30)
    ahead.close()
    assert [0, 1, 2, 3, 4] == made


def test_items_are_made_by_another_thread() -> None:
    """No item is made by the thread that uses it."""

    def items() -> Iterator[str]:
        for _ in range(3):
            yield threading.current_thread().name

    names = set(read_ahead(items(), 2))
    assert 1 == len(names)
    assert threading.current_thread().name not in names


def test_an_error_comes_in_its_place() -> None:
    """What was made before an error is handed on, then the error, and all ends."""

    def items() -> Iterator[int]:
        yield from (1, 2)
        raise TraceFormatError("t: broken")

    got: list[int] = []
    with pytest.raises(TraceFormatError, match="broken"):
        got.extend(read_ahead(items(), 8))
    ahead = read_ahead(items(), 8)
    assert [1, 2] == [next(ahead), next(ahead)]
    with pytest.raises(TraceFormatError, match="broken"):
        next(ahead)
    assert [] == decoders()


def test_a_dropped_reader_ends_its_thread() -> None:
    """Closed or forgotten early: the thread ends, and what it read is closed."""
    closed: list[str] = []

    def items(name: str) -> Iterator[int]:
        try:
            yield from range(1, 1000)
        finally:
            closed.append(name)

    ahead = read_ahead(items("closed"), 2)
    next(ahead)
    assert 1 == len(decoders())
    ahead.close()
    assert [] == decoders()
    ahead = read_ahead(items("dropped"), 2)
    next(ahead)
    del ahead
    assert [] == decoders()
    assert ["closed", "dropped"] == closed


def test_nothing_starts_before_it_is_asked() -> None:
    """A reader that nobody reads has no thread."""
    ahead = read_ahead(iter([1]), 1)
    assert [] == decoders()
    assert [1] == list(ahead)


def test_depth_is_checked() -> None:
    """A depth below one is refused."""
    with pytest.raises(ValueError, match="depth: expected >= 1, got 0"):
        next(read_ahead(iter([1]), 0))


@pytest.mark.parametrize("rows", [999, 7000])
def test_chunks_are_the_same(trace: TraceReader, rows: int) -> None:
    """Chunks decoded ahead equal those decoded in turn, bit for bit."""
    plain = list(trace.chunks(rows))
    for want, got in zip(plain, trace.chunks(rows, ahead=20_000), strict=True):
        for name in ("page", "write", "initiator", "time_ns"):
            np.testing.assert_array_equal(getattr(want, name), getattr(got, name))
            assert getattr(got, name).flags.writeable


def test_times_that_nobody_wants_are_not_decoded(trace: TraceReader) -> None:
    """Without times all else is the same; a rate asks for no times, a window does."""
    for want, got in zip(
        trace.chunks(7000), trace.chunks(7000, times=False), strict=True
    ):
        assert got.time_ns is None
        for name in ("page", "write", "initiator"):
            np.testing.assert_array_equal(getattr(want, name), getattr(got, name))


def test_a_window_by_time_needs_the_times(trace: TraceReader) -> None:
    """The windows of a trace with times are cut by them, whatever the rate."""
    parts = [RecordedWorkload(trace, window=(k, 3)) for k in (1, 2, 3)]
    epochs = [chunk for part in parts for chunk in part.epochs(Pace(rate=10.0))]
    whole = np.concatenate([chunk.page for chunk in trace.chunks()])
    np.testing.assert_array_equal(whole, np.concatenate([c.page for c in epochs]))
    first = sum(len(c) for c in parts[0].epochs(Pace(rate=10.0)))
    assert 33_333 == first


def test_a_chunk_is_decoded_in_turn(trace: TraceReader) -> None:
    """A trace of one chunk, or nothing wanted ahead: no thread."""
    for chunks in (trace.chunks(1 << 20, ahead=1 << 20), trace.chunks(999)):
        next(chunks)
        assert [] == decoders()
    chunks = trace.chunks(999, ahead=1)
    next(chunks)
    assert 1 == len(decoders())


def test_memory_ahead_is_bounded(
    trace: TraceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would take more than the bound is decoded in turn."""
    row_bytes = 4 + 1 + 1 + 8
    monkeypatch.setattr("isotherm.trace.reader.AHEAD_BYTES", 1000 * row_bytes)
    chunks = trace.chunks(1001, ahead=1 << 30)
    next(chunks)
    assert [] == decoders()
    chunks = trace.chunks(1000, ahead=1 << 30)
    next(chunks)
    assert 1 == len(decoders())


@pytest.mark.parametrize("rate", [10.0, None])
def test_epochs_ask_for_the_next_two(
    trace: TraceReader, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload asks for two epochs ahead; for none where all is one epoch."""
    asked = []
    chunks = trace.chunks

    def listen(rows: int, ahead: int, *, times: bool) -> Iterator[object]:
        asked.append(ahead)
        return chunks(rows, ahead, times=times)

    monkeypatch.setattr(trace, "chunks", listen)
    workload = RecordedWorkload(trace)
    short, whole = 5_000_000, 10_000_000_000  # ns: 20 epochs by their times
    list(workload.epochs(Pace(short, rate)))
    list(workload.epochs(Pace(whole, rate)))
    list(workload.epochs(Pace(short, rate, accesses=1)))
    assert [100 if rate else 10_001, 0, 0] == asked


@pytest.mark.slow
def test_results_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation says the same, bit for bit, with decoding ahead and without."""
    path = tmp_path / "t.parquet"
    with TraceWriter(path, Provenance(tool="test")) as writer:
        writer.append(np.random.default_rng(1).integers(0, 1 << 16, 3 << 20))
    spec = SimulationSpec("isotherm", str(path))
    measured = ("wall_s", "setup_s", "accesses_per_wall_s")
    results = []
    for limit in (128 << 20, 0):
        monkeypatch.setattr("isotherm.trace.reader.AHEAD_BYTES", limit)
        result = simulate(spec)
        results.append({k: v for k, v in result.items() if k not in measured})
    assert results[0] == results[1]
    assert 3 << 20 == results[0]["accesses"]


def test_a_damaged_file_says_so(trace: TraceReader) -> None:
    """An error in a later part of the file reaches who reads, with the file's name."""
    path = Path(trace.info.path)
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(TraceFormatError, match=path.name):
        list(trace.chunks(1000, ahead=5000))
    assert [] == decoders()

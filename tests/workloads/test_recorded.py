"""A recorded trace as a workload."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import IsothermError, TraceFormatError, UsageError
from isotherm.trace.format import Provenance, TraceReader, TraceWriter
from isotherm.trace.stream import Pace
from isotherm.workloads import recorded
from isotherm.workloads.recorded import RecordedWorkload, open_recorded
from isotherm.workloads.registry import make_workload

MS = 1_000_000


def workload(
    path: Path, pages: list[int], time_ns: list[int] | None = None
) -> RecordedWorkload:
    """Return a trace of these pages as a workload."""
    with TraceWriter(path, Provenance()) as writer:
        writer.append(pages, write=[p % 2 for p in pages], time_ns=time_ns)
    return RecordedWorkload(TraceReader(path))


@pytest.mark.parametrize("rows", [1, 3, 7, 20, 1000])
@pytest.mark.parametrize("rate", [0.1, 1.0, 7.3, 1e9])
def test_pieces_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, rate: float
) -> None:
    """However a trace is cut on its way, its epochs are the same."""
    trace = workload(tmp_path / "t", [number % 7 for number in range(100)])
    pace = Pace(rate=rate)
    whole = list(trace.epochs(pace))
    monkeypatch.setattr(recorded, "MIN_ROWS", rows)
    monkeypatch.setattr(recorded, "MAX_ROWS", rows)
    cut = list(trace.epochs(pace))
    assert [len(c) for c in whole] == [len(c) for c in cut]
    for want, got in zip(whole, cut, strict=True):
        assert want.page.tolist() == got.page.tolist()
        if len(want):
            assert want.write is not None
            assert got.write is not None
            assert want.write.tolist() == got.write.tolist()
    assert list(range(7)) == np.unique(np.concatenate([c.page for c in cut])).tolist()


def test_a_trace_that_is_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its accesses are played nevertheless, all of them."""
    trace = workload(tmp_path / "t", [number % 7 for number in range(100)])
    short = replace(trace.info, accesses=10)
    monkeypatch.setattr(trace.reader, "_info", short)
    monkeypatch.setattr(recorded, "MIN_ROWS", 7)
    monkeypatch.setattr(recorded, "MAX_ROWS", 7)
    (epoch,) = trace.epochs(Pace(rate=1e6))
    assert [number % 7 for number in range(100)] == epoch.page.tolist()


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    accesses=st.integers(1, 60),
    rate=st.floats(0.3, 40),
    limit=st.one_of(st.none(), st.integers(1, 70)),
)
def test_epochs_by_rate(
    tmp_path_factory: pytest.TempPathFactory,
    accesses: int,
    rate: float,
    limit: int | None,
) -> None:
    """Epoch e holds floor(n (e+1)) - floor(n e) accesses, the last perhaps fewer."""
    raw = [number % 7 for number in range(accesses)]
    trace = workload(tmp_path_factory.mktemp("t") / "t", raw)
    epochs = list(trace.epochs(Pace(rate=rate, accesses=limit)))
    n = rate * trace.pages * 0.5
    sizes = [math.floor(n * (e + 1)) - math.floor(n * e) for e in range(len(epochs))]
    found = [len(epoch) for epoch in epochs]
    total = min(accesses, limit or accesses)
    assert sizes[:-1] == found[:-1]
    assert found[-1] <= sizes[-1]
    assert total == sum(found)
    assert raw[:total] == np.concatenate([e.page for e in epochs]).tolist()
    assert all(e.time_ns is None for e in epochs)


def test_the_same_every_time(tmp_path: Path) -> None:
    """Each call of ``epochs`` reads the trace again, from the start."""
    trace = workload(tmp_path / "gcc.trace.parquet", [4, 5, 4, 6])
    first, second = (
        [epoch.page.tolist() for epoch in trace.epochs(Pace(rate=1.5))]
        for _ in range(2)
    )
    assert [[0, 1], [0, 2]] == first == second
    assert ("gcc", 3) == (trace.name, trace.pages)


def test_epochs_by_the_traces_own_times(tmp_path: Path) -> None:
    """Without a rate an epoch holds what happened in it, perhaps nothing."""
    times = [0, 499 * MS, 500 * MS, 1999 * MS]
    trace = workload(tmp_path / "t", [1, 2, 3, 1], times)
    epochs = list(trace.epochs(Pace(rate=None)))
    assert [[0, 1], [2], [], [0]] == [epoch.page.tolist() for epoch in epochs]
    assert epochs[0].time_ns is not None
    assert times[:2] == epochs[0].time_ns.tolist()
    assert [[0, 1], [2]] == [
        epoch.page.tolist() for epoch in trace.epochs(Pace(rate=None, accesses=3))
    ]


def test_windows_are_equal_parts_of_the_time(tmp_path: Path) -> None:
    """Each access is in one of them, times counted from the window's start."""
    times = [0, 10 * MS, 399 * MS, 400 * MS, 1100 * MS, 1199 * MS]
    whole = workload(tmp_path / "t", [5, 6, 5, 7, 5, 8], times)
    found = []
    for part in (1, 2, 3):
        trace = open_recorded(tmp_path / "t", window=(part, 3))
        assert whole.pages == trace.pages
        epochs = list(trace.epochs(Pace(rate=None, epoch_ns=100 * MS)))
        found.append([epoch.page.tolist() for epoch in epochs])
    assert [
        [[0, 1], [], [], [0]],
        [[2]],
        [[], [], [], [0, 3]],
    ] == found


@given(n=st.integers(1, 40), parts=st.integers(1, 7))
def test_windows_without_times_share_the_accesses(
    tmp_path_factory: pytest.TempPathFactory, n: int, parts: int
) -> None:
    """Joined they are the trace; their sizes differ by one at most."""
    path = tmp_path_factory.mktemp("t") / "t"
    workload(path, [i % 5 for i in range(n)])
    joined, sizes = [], []
    for part in range(1, parts + 1):
        trace = open_recorded(path, window=(part, parts))
        pages = [p for epoch in trace.epochs(Pace(rate=1)) for p in epoch.page.tolist()]
        joined += pages
        sizes.append(len(pages))
    assert [i % 5 for i in range(n)] == joined
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "2", "a/b", "1/2/3", "0/2", "3/2"])
def test_no_window(tmp_path: Path, text: str) -> None:
    """Two whole numbers, the first not above the second."""
    workload(tmp_path / "t.parquet", [1, 2])
    with pytest.raises(UsageError, match="window: expected K/N"):
        make_workload(str(tmp_path / "t.parquet"), options={"window": text})


def test_a_trace_has_one_option(tmp_path: Path) -> None:
    """window, and no other."""
    workload(tmp_path / "t.parquet", [1, 2])
    with pytest.raises(UsageError, match="option window alone, got theta"):
        make_workload(str(tmp_path / "t.parquet"), options={"theta": 1})


def test_no_times_and_no_rate(tmp_path: Path) -> None:
    """Then there is no time at all, and the error says which option helps."""
    with pytest.raises(UsageError) as caught:
        workload(tmp_path / "t", [1]).epochs(Pace(rate=None))
    assert "--rate 10" == caught.value.hint


@pytest.mark.parametrize(
    "pace", [Pace(rate=0), Pace(rate=-1), Pace(epoch_ns=0), Pace(accesses=0)]
)
def test_paces_that_lead_nowhere(tmp_path: Path, pace: Pace) -> None:
    """A rate, epoch or limit that is not above 0 is a usage error."""
    with pytest.raises(UsageError):
        workload(tmp_path / "t", [1]).epochs(pace)


def test_open_a_trace(tmp_path: Path) -> None:
    """A trace file is opened as it is."""
    workload(tmp_path / "t", [1, 2])
    assert 2 == open_recorded(tmp_path / "t").pages


def test_open_a_foreign_file(tmp_path: Path) -> None:
    """Another tool's trace is imported first, and the copy goes with the workload."""
    (tmp_path / "loop.trace").write_bytes(b"8\n9\n8\n")
    trace = open_recorded(tmp_path / "loop.trace")
    copy = Path(trace.info.path)
    assert ("loop", 2, True) == (trace.name, trace.pages, copy.exists())
    assert [[0, 1], [0]] == [e.page.tolist() for e in trace.epochs(Pace(rate=2))]
    del trace
    assert not copy.parent.exists()


def test_open_what_is_no_trace(tmp_path: Path) -> None:
    """A missing or malformed file is an error for a person."""
    with pytest.raises(UsageError):
        open_recorded(tmp_path / "none")
    (tmp_path / "t").write_text("neither fish nor fowl")
    with pytest.raises(TraceFormatError):
        open_recorded(tmp_path / "t")
    with pytest.raises(IsothermError):
        open_recorded(tmp_path)

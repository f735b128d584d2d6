"""What every workload keeps: generators, TOML files, traces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.data import list_traces
from isotherm.trace.stream import AccessChunk, Pace, Workload
from isotherm.workloads.registry import WORKLOADS, make_workload

EPOCH_NS = 500_000_000
COLUMNS = {"write": np.uint8, "initiator": np.uint8, "time_ns": np.int64}


def from_toml(folder: Path) -> Workload:
    """Return a workload of a TOML file."""
    path = folder / "mine.toml"
    path.write_text('kind = "gups"\n')
    return make_workload(str(path), 1001)


def from_csv(folder: Path) -> Workload:
    """Return an imported trace with every column."""
    path = folder / "mine.csv"
    rows = [f"{(7 * i) % 61},{i * 10_000_000},{i % 2},{i % 3}\n" for i in range(997)]
    path.write_text("page,time_ns,write,initiator\n" + "".join(rows))
    return make_workload(str(path))


#: ``{name: maker}``; a maker gets an empty folder.
MAKERS: dict[str, Callable[[Path], Workload]] = {
    **{
        name: lambda _, name=name: make_workload(name, 1001)  # type: ignore[misc]
        for name in WORKLOADS
    },
    **{
        f"trace:{name}": lambda _, name=name: make_workload(name)  # type: ignore[misc]
        for name in list_traces()
    },
    "toml": from_toml,
    "csv": from_csv,
}


@pytest.fixture(params=MAKERS)
def workload(request: pytest.FixtureRequest, tmp_path: Path) -> Workload:
    """Return each workload in turn."""
    return MAKERS[request.param](tmp_path)


def copied(chunk: AccessChunk) -> tuple[bytes | None, ...]:
    """Return a chunk's columns as bytes."""
    columns = (chunk.page, chunk.write, chunk.initiator, chunk.time_ns)
    return tuple(None if c is None else c.tobytes() for c in columns)


def test_columns(workload: Workload) -> None:
    """Equal lengths, fixed types, pages below the footprint, flags of one bit."""
    assert workload.name
    assert workload.pages > 0
    total = 0
    for chunk in workload.epochs(Pace(EPOCH_NS, 3.0, 20_000)):
        total += len(chunk)
        assert np.uint32 == chunk.page.dtype
        if len(chunk):
            assert chunk.page.max() < workload.pages
        for name, dtype in COLUMNS.items():
            column = getattr(chunk, name)
            if column is not None:
                assert dtype == column.dtype
                assert len(chunk) == len(column)
        if chunk.write is not None and len(chunk):
            assert chunk.write.max() <= 1
    assert 0 < total <= 20_000


def test_epochs_are_of_the_size_that_the_rate_says(workload: Workload) -> None:
    """floor(n (e+1)) - floor(n e) accesses in epoch e, the last possibly fewer."""
    n = 0.3 * workload.pages * 0.5
    limit = int(5.5 * n)
    sizes = [len(c) for c in workload.epochs(Pace(EPOCH_NS, 0.3, limit))]
    full = [int(n * (e + 1)) - int(n * e) for e in range(len(sizes))]
    assert full[:-1] == sizes[:-1]
    assert sizes[-1] <= full[-1]
    assert sum(sizes) <= limit


def test_the_same_accesses_every_time(workload: Workload) -> None:
    """epochs() begins anew at each call, bit for bit."""
    pace = Pace(EPOCH_NS, 2.0, 10_000)
    first = [copied(chunk) for chunk in workload.epochs(pace)]
    assert first == [copied(chunk) for chunk in workload.epochs(pace)]


def test_a_limit_cuts_the_stream(workload: Workload) -> None:
    """Fewer accesses are a prefix of more."""
    long, short = (
        np.concatenate(
            [c.page.copy() for c in workload.epochs(Pace(EPOCH_NS, 2.0, limit))]
        )
        for limit in (900, 300)
    )
    assert 300 == len(short)
    assert long[:300].tolist() == short.tolist()


def test_own_times_or_a_clear_error(workload: Workload) -> None:
    """Without a rate the times lie in their epochs; who has none says so."""
    try:
        chunks = [
            None if c.time_ns is None else (c.time_ns.copy())
            for c in workload.epochs(Pace(EPOCH_NS, None, 20_000))
        ]
    except UsageError as error:
        assert error.exit_code == 2  # noqa: PT017  # or times, below
        return
    for epoch, time_ns in enumerate(chunks):
        if time_ns is None or len(time_ns) == 0:
            continue
        assert (np.diff(time_ns) >= 0).all()
        assert epoch * EPOCH_NS <= time_ns[0]
        assert time_ns[-1] < (epoch + 1) * EPOCH_NS

"""Decoded traces: the same accesses, decoded once, bounded, and removed."""

import multiprocessing
import multiprocessing.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.lab.compare import compare
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.trace_cache import (
    PREFIX,
    SweepFolder,
    TraceCache,
    new_token,
    remove_folder,
)
from isotherm.trace.format import TraceReader, TraceWriter
from isotherm.trace.info import Provenance
from isotherm.trace.stream import AccessChunk, Pace
from isotherm.workloads import recorded
from isotherm.workloads.recorded import RecordedWorkload

pytest.importorskip("pyarrow")

MIB = 1 << 20
Trace = Callable[[str], Path]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Return what writes a trace of 5,000 rows, some of which stand for several."""

    def make(name: str = "t") -> Path:
        path = tmp_path / f"{name}.parquet"
        rng = np.random.default_rng(1)
        rows = 5000
        with TraceWriter(path, Provenance(tool="test")) as writer:
            writer.append(
                rng.integers(0, 300, rows),
                write=rng.integers(0, 2, rows),
                time_ns=np.sort(rng.integers(0, 10**10, rows)),
                count=rng.integers(1, 4, rows),
            )
        return path

    return make


@pytest.fixture
def cache(tmp_path: Path) -> TraceCache:
    """Return an empty cache with room for everything."""
    (tmp_path / "cache").mkdir()
    return TraceCache(tmp_path / "cache", 64 * MIB)


def columns(workload: RecordedWorkload | None, pace: Pace) -> list[AccessChunk]:
    """Return the epochs of a workload."""
    assert workload is not None
    return list(workload.epochs(pace))


def assert_same(one: list[AccessChunk], other: list[AccessChunk]) -> None:
    """Epochs are equal, column by column and bit by bit."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for name in ("page", "write", "initiator", "time_ns"):
            a, b = getattr(mine, name), getattr(theirs, name)
            assert (a is None) == (b is None), name
            if a is not None:
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)


@pytest.mark.parametrize("rate", [None, 3.0])
@pytest.mark.parametrize("window", [(1, 1), (2, 3)])
@pytest.mark.parametrize("accesses", [None, 4321])
def test_accesses_are_the_same(
    cache: TraceCache,
    trace: Trace,
    rate: float | None,
    window: tuple[int, int],
    accesses: int | None,
) -> None:
    """Whatever the pace, window and end: the accesses of the file itself."""
    path = trace("t")
    pace = Pace(rate=rate, accesses=accesses)
    shared = cache.open(path, accesses, window)
    plain = RecordedWorkload(TraceReader(path), window=window)
    assert_same(columns(plain, pace), columns(shared, pace))
    assert shared is not None
    assert (plain.name, plain.pages, plain.info) == (
        shared.name,
        shared.pages,
        shared.info,
    )


def test_small_maps_make_no_difference(
    cache: TraceCache, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs that reach over the end of a mapped piece are whole."""
    workload = cache.open(trace("t"))
    assert workload is not None
    whole = columns(workload, Pace())
    monkeypatch.setattr(recorded, "MIN_ROWS", 7)
    monkeypatch.setattr(recorded, "MAX_ROWS", 7)
    assert_same(whole, columns(workload, Pace()))


def test_decoded_once(cache: TraceCache, trace: Trace) -> None:
    """A second look, a window and another rate decode nothing; a new file does."""
    path = trace("t")
    for window in ((1, 1), (1, 1), (1, 2), (2, 2)):
        assert cache.open(path, None, window) is not None
    assert cache.decoded == 1
    os.utime(path, ns=(1, 1))
    cache.open(path)
    assert cache.decoded == 2


def test_imported_once(cache: TraceCache, tmp_path: Path) -> None:
    """Another tool's trace is imported and decoded once."""
    path = tmp_path / "t.csv"
    path.write_text("page,time_ns\n" + "".join(f"{i % 7},{i}\n" for i in range(99)))
    first, second = cache.open(path), cache.open(path)
    assert first is not None
    assert ("t", 7) == (first.name, first.pages)
    assert_same(columns(first, Pace()), columns(second, Pace()))
    assert cache.decoded == 1


def test_what_does_not_fit_is_not_kept(tmp_path: Path, trace: Trace) -> None:
    """A trace beyond the limit is refused before it is decoded."""
    (tmp_path / "cache").mkdir()
    small = TraceCache(tmp_path / "cache", 1000)
    assert small.open(trace("t")) is None
    assert small.decoded == 0


def test_oldest_goes_first(tmp_path: Path, trace: Trace) -> None:
    """Of three traces in a place for two, the one that was used last stays."""
    (tmp_path / "cache").mkdir()
    a, b, c = (trace(name) for name in "abc")
    size = 13 * TraceReader(a).info.accesses  # page 4, write 1, time_ns 8
    cache = TraceCache(tmp_path / "cache", int(2.5 * size))
    first = cache.open(a)
    for path in (b, a, c):
        assert cache.open(path) is not None
    assert cache.decoded == 3
    cache.open(a)
    assert cache.decoded == 3
    cache.open(b)
    assert cache.decoded == 4
    # Its file is gone, and still whoever has it open reads it.
    assert sum(len(c) for c in columns(first, Pace())) * 13 == size


def decode_at_once(
    folder: Path, path: Path, found: "multiprocessing.Queue[int]"
) -> None:
    """Open a trace in another process; tell how often this one decoded it."""
    cache = TraceCache(folder, 64 * MIB)
    assert cache.open(path) is not None
    found.put(cache.decoded)


@pytest.mark.slow
def test_processes_share(tmp_path: Path, trace: Trace) -> None:
    """Of four processes that want a trace at once, one decodes it."""
    (tmp_path / "cache").mkdir()
    path = trace("t")
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[int] = context.Queue()
    made = [
        context.Process(target=decode_at_once, args=(tmp_path / "cache", path, found))
        for _ in range(4)
    ]
    for process in made:
        process.start()
    assert sum(found.get(timeout=100) for _ in made) == 1
    for process in made:
        process.join()


@pytest.fixture
def root(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return where folders of sweeps are made: a short path, as sockets want it.

    multiprocessing and pytest keep folders of their own for the life of the
    process: they must not be born below one that goes away with a test.
    """
    multiprocessing.util.get_temp_dir()
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


def test_folder_is_shared_and_goes_with_its_last(root: Path) -> None:
    """Who leaves first leaves the folder; who leaves last removes it."""
    one, two = SweepFolder("x"), SweepFolder("x")
    assert one.path == two.path
    one.release()
    assert two.path.is_dir()
    two.release()
    assert [] == list(root.iterdir())


def test_left_over_folder_is_removed(root: Path) -> None:
    """A sweep removes what killed ones have left, and nothing that is in use."""
    left = root / f"{PREFIX}dead"
    left.mkdir()
    (left / "hold").touch()
    used = SweepFolder("used")
    new = SweepFolder(new_token())
    assert {used.path, new.path} == set(root.iterdir())
    used.release()
    new.release()


def test_sweep_is_over(root: Path) -> None:
    """The end of a sweep removes its folder, whoever holds it."""
    held = SweepFolder("x")
    remove_folder("x")
    assert not held.path.exists()
    held.release()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_sweep_decodes_once_and_leaves_nothing(
    root: Path, trace: Trace, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are those of runs alone, of one decoding, and the folder is gone."""
    monkeypatch.setenv("TMPDIR", str(root))
    specs = [
        SimulationSpec(policy, str(trace("t")), fast_ratio=ratio, rate=rate)
        for policy in ("first-touch", "static-oracle", "clairvoyant", "tpp")
        for ratio in (0.5, 0.2)
        for rate in (None, 2.0)
    ]
    found = compare(specs, jobs=jobs)
    assert found.decoded == 1
    assert [] == list(root.glob(PREFIX + "*"))
    alone = compare(specs, jobs=1, trace_bytes=0)
    assert alone.decoded == 0
    timed = {"wall_s", "setup_s", "accesses_per_wall_s"}
    for mine, theirs in zip(found.results, alone.results, strict=True):
        assert {k: mine[k] for k in mine.keys() - timed} == {
            k: theirs[k] for k in theirs.keys() - timed
        }

"""Traces synthesised from rates: as many accesses, when and where they were."""

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.core.units import NS_PER_S
from isotherm.daemon.hotness_trace import (
    FAULT_TURNS,
    GLANCES,
    PROCESS_SHIFT,
    HotnessTrace,
    plan_glance,
    plan_looks,
)
from isotherm.daemon.trace_record import Recording, Wanted
from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import NOT_PRESENT, Space, SpacesChanged
from isotherm.trace.format import Provenance, TraceReader, TraceWriter
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload

pytest.importorskip("pyarrow")
SPACES = (Space(0, 60, "pid 7 a", 1000), Space(60, 40, "pid 9 b", 500))


class Rates:
    """A view that knows rates."""

    def __init__(self, rate) -> None:
        self._rate = np.asarray(rate, np.float32)
        self.pages = len(self._rate)

    def rate(self, page):
        """Return rates of pages."""
        return self._rate[page]


@pytest.fixture
def written(tmp_path):
    """Return a function that writes intervals of rates and reads the trace."""

    def write(*intervals, node=None, change=None):
        path = tmp_path / "x.parquet"
        with TraceWriter(path, Provenance()) as writer:
            trace = HotnessTrace(writer, 100)
            for rates in intervals:
                where = np.zeros(len(rates), np.uint8) if node is None else node
                trace.add(Rates(rates), where, SPACES, NS_PER_S)
                if change is not None:
                    trace.renew(change)
        return TraceReader(path)

    return write


def table(reader):
    """Return the columns of a trace, raw pages filled in."""
    import pyarrow.parquet as pq

    columns = pq.read_table(reader.info.path).to_pydict()
    raw = {
        page: first
        for page, first in zip(columns["page"], columns["raw_page"], strict=True)
        if first is not None
    }
    columns["raw"] = [raw[page] for page in columns["page"]]
    return columns


def test_whole_rates_give_exactly_their_accesses(written):
    """Five a second for three seconds is fifteen, at every page alike."""
    found = table(written(*[np.full(100, 5.0)] * 3))
    total = {}
    for raw, count in zip(found["raw"], found["count"], strict=True):
        total[raw] = total.get(raw, 0) + count
    assert {15} == set(total.values())
    first = [*range(1000, 1060)]
    second = [(1 << PROCESS_SHIFT) + page for page in range(500, 540)]
    assert first + second == sorted(total)


def test_small_rates_come_one_by_one_and_not_together(written):
    """0.1 a second is one access in ten seconds, at different seconds."""
    found = table(written(*[np.full(100, 0.1)] * 10))
    assert {1} == set(found["count"])
    assert 95 <= len(found["count"]) <= 100  # rounding of 0.1 may hide a few
    seconds = np.array(found["time_ns"]) // NS_PER_S
    assert (np.bincount(seconds, minlength=10) > 0).all()


def test_times_lie_in_their_interval(written):
    """The second interval's accesses come in the second second."""
    hot = np.zeros(100)
    hot[:50] = 8.0
    found = table(written(hot, hot[::-1]))
    seconds = np.array(found["time_ns"]) // NS_PER_S
    early = {raw for raw, s in zip(found["raw"], seconds, strict=True) if s == 0}
    late = {raw for raw, s in zip(found["raw"], seconds, strict=True) if s == 1}
    assert early.isdisjoint(late)
    assert (50, 50) == (len(early), len(late))


def test_pages_without_memory_or_owner_have_no_accesses(written):
    """What is not there cannot be touched, whatever was believed of it."""
    node = np.zeros(120, np.uint8)
    node[:30] = NOT_PRESENT
    found = table(written(np.full(120, 3.0), node=node))
    assert 70 == len(found["raw"])
    assert min(found["raw"]) == 1030


def test_new_owners_begin_anew(written):
    """Renewed pages lose what was carried over, others keep it."""
    change = SpacesChanged(100, np.array([[0, 50]], np.int64))
    found = table(written(*[np.full(100, 0.5)] * 2, change=change))
    kept = [raw for raw in found["raw"] if raw >= 1050]
    assert 50 == len(kept)  # every page not renewed had its one access in 2 s


def test_looks_cover_all_memory():
    """Bits everywhere in each interval; poison everywhere within a round."""
    poisoned = set()
    for index in range(FAULT_TURNS):
        for look in plan_looks(index, 1000):
            if look.mechanism is Mechanism.HINT_FAULT:
                poisoned.update(range(look.start_page, look.end_page))
                assert look.start_page % 8 == 0
            else:
                assert (0, 1000) == (look.start_page, look.end_page)
                assert look.window_s is None
    assert set(range(1000)) == poisoned


def test_glances_are_shares_of_the_interval():
    """Every second interval has one, of two lengths."""
    glances = [plan_glance(index, 2.0) for index in range(2 * len(GLANCES))]
    assert [0.5, None, 0.125, None] * 2 == glances


@pytest.mark.slow
def test_a_recorded_workload_is_as_hot_as_the_real_one(playing, tmp_path):
    """What simulate reads of a recording has the hot pages of what ran."""
    played = playing()
    machine = played.machine
    path = tmp_path / "gups.parquet"
    owner = (Space(0, machine.pages, "pid 4242 gups", 16),)

    class Owned:
        """The machine, its pages those of a process."""

        spaces = owner

        def __getattr__(self, name):
            return getattr(machine, name)

    with TraceWriter(path, Provenance()) as writer:
        recording = Recording(
            Owned(),
            played.service.loop.sources,
            HotnessTrace(writer, machine.pages),
            1.0,
        )
        recording.start()
        true = np.zeros(machine.pages)
        workload = make_workload("gups", machine.pages, 1)
        quarter = NS_PER_S // 4
        pace = Pace(quarter, 10.0, 40 * 10 * machine.pages)
        for index, chunk in enumerate(workload.epochs(pace)):
            true += np.bincount(chunk.page, minlength=machine.pages)
            machine.advance(chunk, quarter)
            if index % 4 == 2 and recording.glance_s is not None:
                recording.glance()
            if index % 4 == 3:
                recording.interval()
    info = TraceReader(path).info
    assert 40 == recording.trace.intervals
    assert ("time_ns", "count") == tuple(sorted(info.columns, reverse=True))
    replay = make_workload(str(path))
    counts = np.zeros(replay.pages)
    for chunk in replay.epochs(Pace(rate=None)):
        counts += np.bincount(chunk.page, minlength=replay.pages)
    columns = table(TraceReader(path))
    raw = dict(zip(columns["page"], columns["raw"], strict=True))
    seen = np.zeros(machine.pages)
    for page, count in enumerate(counts):
        seen[raw[page] - 16] = count
    hot = set(np.argsort(true)[-250:].tolist())
    found = set(np.argsort(seen)[-250:].tolist())
    assert len(hot & found) > 225


def test_an_interval_tells_of_the_memory_it_has_looked_at(playing, tmp_path):
    """Bits are read before mappings are; what is new has its placement read."""
    machine = playing().machine
    told, read = [], []

    class Source:
        """Says when it is asked."""

        mechanism = Mechanism.ACCESSED_BIT

        def look(self, looks):
            """Note which looks were asked for."""
            told.append(tuple(look.mechanism for look in looks))

        def drain(self):
            """Note that it was asked."""
            told.append("drain")
            return ()

    class Changing:
        """The machine, with a change at each refresh."""

        def __getattr__(self, name):
            return getattr(machine, name)

        def refresh(self):
            """Tell of eight new pages."""
            told.append("refresh")
            return SpacesChanged(machine.pages, np.array([[8, 16]], np.int64))

    with TraceWriter(tmp_path / "x.parquet", Provenance()) as writer:
        recording = Recording(
            Changing(),
            (Source(),),
            HotnessTrace(writer, machine.pages),
            1.0,
            reread=lambda ranges: read.append(ranges.tolist()),
        )
        recording.start()
        recording.glance()
        recording.interval()
    every = tuple(look.mechanism for look in plan_looks(0, machine.pages))
    bits = (Mechanism.ACCESSED_BIT,)
    assert [every, "drain", bits, "drain", "refresh", every] == told
    assert [[[0, machine.pages]], [[8, 16]]] == read


@pytest.mark.parametrize(
    "change",
    [{"pids": ()}, {"interval_s": 0.0}, {"interval_s": 99.0}, {"duration_s": -1.0}],
)
def test_wrong_wishes_are_refused(tmp_path, change):
    """Before anything is opened."""
    fields = {"pids": (1,), "out": tmp_path / "x"} | change
    with pytest.raises(UsageError):
        Wanted(**fields).check()

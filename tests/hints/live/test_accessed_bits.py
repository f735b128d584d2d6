"""Looks become batches of accessed bits, whatever reads the bits."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.hints.batch import AccessedBits, HintBatch, Look, Mechanism
from isotherm.hints.live import accessed_bits as module
from isotherm.hints.live.accessed_bits import SET_BIT_NS, LiveAccessedBits
from isotherm.hints.live.later import Later
from isotherm.machine.linux.spaces import SpaceMap

MS = 1_000_000
EPOCH_NS = 500 * MS


class FakeReader:
    """Bits of processes in memory: what was touched since it was cleared.

    Attributes:
        touched: (pid, virtual page) of pages that are touched before every read.
        stuck: Pages whose bit stays.
        whole: Processes that are cleared as a whole.
        gone: Processes that cannot be read.
        reads: (pid, granules) of every read.
    """

    name = "fake"

    def __init__(self) -> None:
        self.touched: set[tuple[int, int]] = set()
        self.stuck: set[tuple[int, int]] = set()
        self.whole: set[int] = set()
        self.gone: set[int] = set()
        self.reads: list[tuple[int, list[int]]] = []
        self.clears: list[tuple[int, list[int]]] = []
        self.is_open = False

    def open(self) -> None:
        """Note that it is open."""
        self.is_open = True

    def close(self) -> None:
        """Note that it is closed."""
        self.is_open = False

    def _mask(self, pages: set[tuple[int, int]], pid: int, granule) -> np.ndarray:
        bits = np.zeros((len(granule), 512), np.uint8)
        for row, g in enumerate(granule.tolist()):
            for owner, page in pages:
                if owner == pid and page // 512 == g:
                    bits[row, page % 512] = 1
        return np.packbits(bits, axis=1, bitorder="little")

    def read(self, pid: int, granule) -> tuple[np.ndarray, np.ndarray]:
        """Return what is touched."""
        self.reads.append((pid, granule.tolist()))
        ok = np.full(len(granule), pid not in self.gone)
        return self._mask(self.touched | self.stuck, pid, granule), ok

    def clear(self, pid: int, granule, mapped) -> np.ndarray | None:
        """Return what is stuck."""
        self.clears.append((pid, granule.tolist()))
        mask = self._mask(self.stuck, pid, granule)
        return mask if mask.any() else None

    def clears_all(self, pid: int, pages: int) -> bool:
        """Return whether a process was named for it."""
        return pid in self.whole


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock at one second."""
    return VirtualClock(1000 * MS)


@pytest.fixture
def reader() -> FakeReader:
    """Return a reader without bits."""
    return FakeReader()


@pytest.fixture
def spaces() -> SpaceMap:
    """Return two processes with 2048 and 1000 pages, from 0 and 2048 on."""
    made = SpaceMap()
    made.update(7, np.array([[5120, 7168]]))
    made.update(9, np.array([[10240, 11240]]))
    return made


@pytest.fixture
def waiting() -> list[tuple[float, Callable[[], None]]]:
    """Return the actions that wait for their time."""
    return []


@pytest.fixture
def source(reader, spaces, clock, waiting) -> LiveAccessedBits:
    """Return an open source whose windows open when the test says so."""
    made = LiveAccessedBits(
        reader,
        spaces,
        EPOCH_NS,
        budget=1e9,
        now_ns=clock.now_ns,
        later=lambda wait_s, action: waiting.append((wait_s, action)),
    )
    made.open()
    return made


def look(first: int = 0, last: int = 4096, **more: object) -> Look:
    """Return a look at accessed bits."""
    return Look(Mechanism.ACCESSED_BIT, first, last, **more)  # type: ignore[arg-type]


def pages(batch: HintBatch) -> list[int]:
    """Return the flat pages whose bit is set."""
    seen = batch.seen
    assert isinstance(seen, AccessedBits)
    row, bit = np.nonzero(np.unpackbits(seen.bits[:, None], axis=1, bitorder="little"))
    return (seen.block[row].astype(int) * 8 + bit).tolist()


def test_bits_are_of_flat_pages(source, reader, clock) -> None:
    """Pages of both processes come in one batch, ascending, without the unmapped."""
    reader.touched = {(7, 5120), (7, 7167), (9, 10243)}
    source.look((look(), Look(Mechanism.SAMPLING, 0, 9)))
    (batch,) = source.drain()
    assert [0, 2047, 2051] == pages(batch)
    assert list(range((2048 + 1000) // 8)) == batch.seen.block.tolist()
    assert ("fake", 0) == (batch.source, batch.lost)
    assert batch.application_ns == 3 * SET_BIT_NS
    assert batch.background_ns > 0
    assert () == source.drain()


def test_an_interval_runs_from_the_last_clearing(source, clock) -> None:
    """It is 0 at first; then the time since, for each granule its own."""
    source.look((look(),))
    (first,) = source.drain()
    assert [0.0] == np.unique(first.seen.interval_s).tolist()
    clock.advance(300 * MS)
    source.look((look(0, 512),))
    assert np.allclose(0.3, source.drain()[0].seen.interval_s)
    clock.advance(200 * MS)
    source.look((look(0, 1024),))
    interval_s = source.drain()[0].seen.interval_s
    assert np.allclose([0.2] * 64 + [0.5] * 64, interval_s)


def test_a_window_clears_at_its_time(source, reader, clock, waiting) -> None:
    """Two batches: what gathered before, and what was touched in the window."""
    source.look((look(),))
    source.drain()
    source.look((look(window_s=0.1),))
    ((wait_s, begin),) = waiting
    assert 0.4 == pytest.approx(wait_s)
    reader.touched = {(7, 5121)}
    clock.advance(400 * MS)
    begin()
    reader.touched = {(7, 5122)}
    clock.advance(100 * MS)
    opening, window = source.drain()
    assert ([1], [2]) == (pages(opening), pages(window))
    assert (True, False) == (opening.seen.opening, window.seen.opening)
    assert np.allclose(0.4, opening.seen.interval_s)
    assert np.allclose(0.1, window.seen.interval_s)


def test_a_window_opens_before_the_end_of_the_epoch_however_late_it_is_asked_for(
    source, reader, clock, waiting
) -> None:
    """What deciding takes is part of the epoch: the window does not come after it."""
    source.look((look(),))
    source.drain()
    clock.advance(300 * MS)

    source.look((look(window_s=0.1),))

    ((wait_s, _),) = waiting
    assert 0.1 == pytest.approx(wait_s)


def test_windows_follow_longer_epochs(source, clock, waiting) -> None:
    """Epochs that a budget has made longer end later, and so do their windows."""
    for _ in range(20):
        source.look(())
        clock.advance(8 * EPOCH_NS)
        source.drain()

    source.look((look(window_s=0.1),))

    ((wait_s, _),) = waiting
    assert 3.9 == pytest.approx(wait_s, abs=0.01)


def test_a_window_that_opens_too_late_is_dropped(source, reader, waiting) -> None:
    """Once its epoch is drained, or the source closed, nothing is cleared."""
    source.look((look(window_s=0.1),))
    source.drain()
    count = len(reader.clears)
    waiting[0][1]()
    source.look((look(window_s=0.1),))
    source.close()
    waiting[1][1]()
    assert count == len(reader.clears)
    assert not reader.is_open
    source.close()


def test_stripes_choose_granules(source, reader) -> None:
    """Over as many looks as stripes, each granule is read once."""
    for stripe in range(3):
        source.look((look(stripes=3, stripe=stripe),))
        source.drain()
    read = [(pid, g) for pid, granules in reader.reads for g in granules]
    assert len(set(read)) == len(read)
    assert {(7, 10), (7, 11), (7, 12), (7, 13), (9, 20), (9, 21)} == set(read)


def test_what_is_cleared_as_a_whole_is_read_as_a_whole(source, reader, clock) -> None:
    """A process that loses all bits at once is read once a round, completely."""
    reader.whole = {7}
    for stripe in range(3):
        clock.advance(100 * MS)
        source.look((look(0, 512, stripes=3, stripe=stripe),))
        source.drain()
    assert [(7, [10, 11, 12, 13])] == [r for r in reader.reads if r[0] == 7]
    assert [(7, [10])] == [c for c in reader.clears if c[0] == 7]
    clock.advance(100 * MS)
    source.look((look(0, 512, stripes=3),))
    assert np.allclose(0.3, source.drain()[0].seen.interval_s)


def test_a_process_read_as_a_whole_is_read_though_stripes_become_more(
    source, reader
) -> None:
    """As often as the parts asked for add up to all, whichever stripes they are."""
    reader.whole = {7}
    for number in range(300):
        stripes = 10 + number
        source.look((look(0, 512, stripes=stripes, stripe=1 + number % 9),))
        source.drain()
    # Once at first; 1/11 + 1/12 + ... + 1/309 is 3.4
    assert 4 == len([pid for pid, _ in reader.reads if pid == 7])


def test_a_process_read_as_a_whole_is_read_once_a_round_with_windows_too(
    source, reader, waiting
) -> None:
    """Opening a window and closing it are one look at a part, not two."""
    reader.whole = {7}
    for stripe in (0, 1, 2, 3, 0, 1):
        source.look((look(0, 512, stripes=4, stripe=stripe, window_s=0.1),))
        waiting.pop()[1]()
        source.drain()
    assert 4 == len([pid for pid, _ in reader.reads if pid == 7])


@pytest.mark.parametrize(
    ("read_ns", "touched", "expected"),
    [(9.9e6, 0, 2), (1e3, 0, 1), (1e9, 0, 50), (1e3, 1000, 12)],
    ids=["some time", "little", "too much", "too much for the target"],
)
def test_looks_come_as_often_as_a_part_of_the_budget_allows(
    reader, spaces, clock, monkeypatch, read_ns, touched, expected
) -> None:
    """By what a look costs here and there; never more rarely than asked for."""
    monkeypatch.setattr(module, "SET_BIT_NS", 3e4)
    spent = iter(range(0, 10**12, int(read_ns)))
    monkeypatch.setattr(module.time, "thread_time_ns", lambda: next(spent))
    source = LiveAccessedBits(
        reader, spaces, EPOCH_NS, budget=0.04, haste=0.25, now_ns=clock.now_ns
    )
    source.open()
    reader.touched = {(7, 5120 + page) for page in range(touched)}
    for _ in range(2):
        clock.advance(EPOCH_NS)
        source.look((look(),))
        source.drain()
    source.thinned = 1
    asked = look(stripes=50, stripe=7)
    assert expected == source._hasten(asked).stripes
    source.close()


def test_a_bit_that_stays_says_nothing(source, reader) -> None:
    """It is masked in ``observed``, and not counted as touched."""
    reader.stuck = {(7, 5123)}
    source.look((look(),))
    (batch,) = source.drain()
    assert [] == pages(batch)
    assert 0xFF & ~(1 << 3) == batch.seen.observed[0]
    assert (batch.seen.observed[1:] == 0xFF).all()
    assert 0 == batch.application_ns


def test_a_process_that_is_gone_is_lost(source, reader) -> None:
    """Its granules are counted, the others are read."""
    reader.gone = {9}
    source.look((look(),))
    (batch,) = source.drain()
    assert 1024 == batch.lost
    assert 256 == len(batch.seen.block)


def test_a_process_may_come_while_a_window_opens(
    source, reader, spaces, waiting, monkeypatch
) -> None:
    """The loop renews the spaces in its own thread: a look is of those read first."""
    follow = source._follow_spaces

    def follow_then_renew() -> None:
        follow()
        spaces.update(11, np.array([[20480, 22528]]))

    monkeypatch.setattr(source, "_follow_spaces", follow_then_renew)
    source.look((look(window_s=0.1),))
    ((_, begin),) = waiting
    begin()
    assert {7, 9} == {pid for pid, _ in reader.reads}
    source.look((look(0, 8192),))
    source.drain()
    assert {7, 9, 11} == {pid for pid, _ in reader.reads}


def test_new_owners_begin_anew(source, spaces, clock) -> None:
    """Flat pages that were given to another process have an unknown interval."""
    source.look((look(),))
    source.drain()
    spaces.forget(7)
    spaces.take_renewed()
    spaces.update(8, np.array([[512, 1024]]))
    spaces.update(9, np.array([[10240, 16384]]))  # grows beyond what was known
    clock.advance(100 * MS)
    source.look((look(0, spaces.pages),))
    (batch,) = source.drain()
    interval_s = dict(
        zip(batch.seen.block.tolist(), batch.seen.interval_s.tolist(), strict=True)
    )
    (base,) = spaces.ranges(8)[:, 2].tolist()
    assert 0.0 == interval_s[base // 8]
    assert 0.1 == pytest.approx(interval_s[2048 // 8])


def test_looks_beyond_the_budget_are_thinned(
    reader, spaces, clock, monkeypatch
) -> None:
    """Each then reads a part of its granules, in turns, until the cost fits."""
    cost = [0]
    monkeypatch.setattr(
        module.time, "thread_time_ns", lambda: cost.append(0) or spent()
    )

    def spent() -> int:
        return len(cost) * 4 * MS  # each walk takes 4 ms

    source = LiveAccessedBits(
        reader, spaces, EPOCH_NS, budget=0.001, now_ns=clock.now_ns, later=print
    )
    source.open()
    for _ in range(3):
        clock.advance(500 * MS)
        source.look((look(),))
        source.drain()
    assert 8 == source.thinned
    reader.reads.clear()
    monkeypatch.setattr(module.time, "thread_time_ns", lambda: 0)
    clock.advance(500 * MS)
    source.look((look(),))
    source.drain()
    assert 4 == source.thinned
    assert len([g for _, granules in reader.reads for g in granules]) <= 1


@pytest.mark.parametrize("whole", [set(), {7, 9}], ids=["by range", "as a whole"])
def test_thinned_stripes_leave_nothing_out(source, reader, clock, whole) -> None:
    """However stripes and turns meet, a round of both reads every granule once."""
    reader.whole = whole
    source.thinned = 2
    source._budget = 0.0  # and stays so: no time passes between drains
    for number in range(1, 9):
        source.look((look(stripes=4, stripe=number % 4),))
        source.drain()
    read = [(pid, g) for pid, granules in reader.reads for g in granules]
    assert 6 == len(read)
    assert {(7, 10), (7, 11), (7, 12), (7, 13), (9, 20), (9, 21)} == set(read)


def test_actions_run_at_their_time_in_order() -> None:
    """The earlier runs first, whichever was given first; none after the close."""
    later, done, ran = Later("test"), [], threading.Event()
    later.call(0.02, lambda: (done.append("late"), ran.set()))
    later.call(0.0, lambda: done.append("early"))
    assert ran.wait(10)
    later.call(1000, lambda: done.append("never"))
    later.close()
    later.close()
    assert ["early", "late"] == done

"""Hot-cold counters from files like the driver's: counts of our pages, no others."""

import mmap

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.live.hca import FOLDER, HcaSource
from tests.hints.live.fake_pmus import one_process, write

PAGES = 1024
BASE, ENTRIES = 1 << 30, 8192
ENGINE = FOLDER / "engine0"


class Frames:
    """A frame map: the frame of every flat page, 0 where there is none."""

    def __init__(self, frame: np.ndarray) -> None:
        self.frame = frame.astype(np.uint32)

    def refresh(self, pages: int) -> int:
        """Do nothing."""
        return 0

    def frames(self, first: int, last: int) -> np.ndarray:
        """Return the frames."""
        return self.frame[first:last]


def entry(count: int, previous: int = 0, *, age: int = 0, generation: int = 0) -> int:
    """Return an entry with counts below 4096 and 256, of socket 1."""
    return count << 48 | age << 45 | generation << 44 | previous << 32 | 1 << 20


class Table:
    """The files of one engine."""

    def __init__(self, root, entries: int = ENTRIES) -> None:
        self.root = root
        self.words = np.zeros(entries, ">u8")
        self.file = root / ENGINE / "counter-data"
        write(root / ENGINE / "enable", "1")
        write(root / ENGINE / "monitor-base", hex(BASE))
        write(root / ENGINE / "monitor-size", str(ENTRIES * mmap.PAGESIZE))
        write(root / ENGINE / "counter-size", str(ENTRIES * 8))
        self.save()

    def save(self) -> None:
        """Write the table."""
        self.file.write_bytes(self.words.tobytes())


@pytest.fixture
def table(tmp_path) -> Table:
    """Return the files of an engine that has counted nothing."""
    return Table(tmp_path)


def frames_of(index: np.ndarray) -> Frames:
    """Return a map in which flat page p is on the frame of entry ``index[p]``."""
    frame = BASE // mmap.PAGESIZE + index
    return Frames(np.where(index < 0, 0, frame))


def source_of(table, index, **more):
    """Return an open source whose pages are on some entries, and its clock."""
    clock = VirtualClock(1)
    made = HcaSource(
        one_process(), clock, frames_of(index), root=table.root, budget=1e9, **more
    )
    made.open()
    return made, clock


def test_counts_are_of_our_pages_since_the_last_reading(table) -> None:
    """The first reading is a beginning; then each page has its own difference."""
    index = np.full(PAGES, -1)
    index[:4] = [5, 6, 4100, 9]
    table.words[[5, 6, 7, 4100]] = [entry(100), entry(50), entry(4000), entry(7)]
    table.save()
    made, clock = source_of(table, index)
    assert () == made.drain()
    clock.advance(2 * 10**9)
    table.words[[5, 6, 7, 4100]] = [entry(160), entry(20), entry(1), entry(7)]
    table.save()
    clock.advance(1)
    (batch,) = made.drain()
    seen = batch.seen
    assert [0, 1, 2, 3] == seen.start.tolist()
    assert [1, 2, 3, 4] == seen.end.tolist()
    # 6 was counted down to: it began anew.
    assert [60.0, 20.0, 0.0, 0.0] == seen.count.tolist()
    assert [[0, 4]] == seen.watched.tolist()
    assert np.allclose(2.0, seen.exposure_s)
    assert (True, 0.0, 0, 0) == (
        seen.complete,
        seen.threshold,
        batch.lost,
        made.unwatched,
    )
    assert batch.capability.post_cache


def test_an_entry_of_several_pages_is_one_range(table) -> None:
    """Pages on one entry are a range; pieces of it share what it counted."""
    index = np.full(PAGES, -1)
    index[10:14], index[20:22] = np.arange(64, 68), np.arange(68, 70)
    made, clock = source_of(table, index, page_bytes=8 * mmap.PAGESIZE)
    made.drain()
    clock.advance(10**9)
    table.words[8] = entry(600)
    table.save()
    (batch,) = made.drain()
    assert [(10, 14), (20, 22)] == list(
        zip(batch.seen.start.tolist(), batch.seen.end.tolist(), strict=True)
    )
    assert [400.0, 200.0] == batch.seen.count.tolist()
    assert [[10, 14], [20, 22]] == batch.seen.watched.tolist()


def test_a_new_generation_counts_on(table) -> None:
    """What the last period still counted has been moved beside the new count."""
    index = np.full(PAGES, -1)
    index[0] = 3
    table.words[3] = entry(100)
    table.save()
    made, clock = source_of(table, index)
    made.drain()
    clock.advance(10**9)
    table.words[3] = entry(30, 140, generation=1)
    table.save()
    assert [70.0] == made.drain()[0].seen.count.tolist()


def test_two_periods_between_readings_are_not_none(table) -> None:
    """The one bit of generation is the same again; the period before has changed."""
    index = np.full(PAGES, -1)
    index[:3] = [3, 4, 5]
    table.words[3:6] = [entry(100, 7), entry(100, 7), entry(100, 7)]
    table.save()
    made, clock = source_of(table, index)
    made.drain()
    clock.advance(10**9)
    # Accesses went on in both; in the first alone; in neither.
    table.words[3:6] = [entry(150, 250), entry(0, 90), entry(0, 0)]
    table.save()
    assert [400.0, 90.0, 0.0] == made.drain()[0].seen.count.tolist()


def test_down_sampling_is_counted_up(table) -> None:
    """One in sixteen was counted; a share that changes is refused."""
    index = np.full(PAGES, -1)
    index[0] = 3
    write(table.root / FOLDER / "sampling-mode", "1")
    made, clock = source_of(table, index)
    made.drain()
    clock.advance(10**9)
    table.words[3] = entry(10)
    table.save()
    (batch,) = made.drain()
    assert ([160.0], 1 / 16) == (batch.seen.count.tolist(), batch.seen.share)
    write(table.root / FOLDER / "sampling-mode", "3")
    with pytest.raises(UnsupportedError, match="sampling-mode"):
        source_of(table, index)


def test_memory_that_no_engine_watches(table) -> None:
    """Pages elsewhere are counted and not reported as cold."""
    index = np.full(PAGES, -1)
    index[0], index[1] = 3, ENTRIES + 5
    made, clock = source_of(table, index)
    made.drain()
    clock.advance(10**9)
    (batch,) = made.drain()
    assert ([[0, 1]], 1) == (batch.seen.watched.tolist(), made.unwatched)


def test_a_table_that_ends_early_is_lost_not_cold(table) -> None:
    """Entries that cannot be read are counted and not watched."""
    index = np.full(PAGES, -1)
    index[0], index[1] = 3, 4000
    table.words = table.words[:100]
    table.save()
    made, clock = source_of(table, index)
    made.drain()
    clock.advance(10**9)
    (batch,) = made.drain()
    assert ([[0, 1]], 1) == (batch.seen.watched.tolist(), batch.lost)


def test_entries_read_the_wrong_way_round_are_refused(table) -> None:
    """Sockets that the machine has not got: an error rather than nonsense."""
    index = np.arange(PAGES)
    rng = np.random.default_rng(3)
    table.words[:PAGES] = [entry(int(c), 77) for c in rng.integers(1, 4000, PAGES)]
    table.save()
    made, _ = source_of(table, index, sockets=2, big_endian=False)
    with pytest.raises(UnsupportedError, match="sockets"):
        made.drain()
    made, _ = source_of(table, index, sockets=2)
    assert () == made.drain()


def test_it_rests_as_its_budget_says(table) -> None:
    """After a reading nothing is read until its cost is within the budget."""
    clock = VirtualClock(1)
    made = HcaSource(
        one_process(), clock, frames_of(np.arange(PAGES)), root=table.root, budget=1e-9
    )
    made.open()
    made.drain()
    clock.advance(10**9)
    assert () == made.drain()


def test_probe(table, tmp_path) -> None:
    """Present while an engine counts; off, the command that turns it on."""
    found = HcaSource.probe(tmp_path)
    assert (True, "engine0: 0 GiB") == (found.present, found.why)
    write(tmp_path / ENGINE / "enable", "0")
    found = HcaSource.probe(tmp_path)
    assert (False, f"echo 1 > /{ENGINE}/enable") == (found.present, found.command)
    assert not HcaSource.probe(tmp_path / "elsewhere").present

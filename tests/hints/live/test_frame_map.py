"""Frames become the flat pages that stand on them, and only those that are known."""

import os

import numpy as np
import pytest

from isotherm.hints.live.frame_map import FrameMap, Pagemaps
from isotherm.machine.linux.spaces import NO_PAGE, SpaceMap

PRESENT = np.uint64(1 << 63)


class Tables:
    """Pagemap entries of processes; reads are counted."""

    def __init__(self) -> None:
        self.frame: dict[tuple[int, int], int] = {}
        self.read_pages = 0

    def read(self, pid: int, start: int, end: int) -> np.ndarray:
        """Return the entries."""
        self.read_pages += end - start
        frame = np.array(
            [self.frame.get((pid, page), 0) for page in range(start, end)], np.uint64
        )
        return np.where(frame > 0, frame | PRESENT, np.uint64(0))


@pytest.fixture
def tables() -> Tables:
    """Return tables in which page p of process 7 is on frame 10000 - p."""
    made = Tables()
    made.frame = {(7, page): 10000 - page for page in range(512, 1024)}
    made.frame[7, 600] = 0  # no memory
    made.frame[9, 2048] = 77
    return made


@pytest.fixture
def spaces() -> SpaceMap:
    """Return 512 pages of process 7 from 0 on, and one of process 9 at 512."""
    made = SpaceMap()
    made.update(7, np.array([[512, 1024]]))
    made.update(9, np.array([[2048, 2049]]))
    return made


def flat(frames: FrameMap, *frame: int) -> list[int]:
    """Return the flat pages of frames."""
    return frames.flat_pages(np.array(frame, np.uint64)).tolist()


def test_frames_are_found(spaces: SpaceMap, tables: Tables) -> None:
    """Of several processes; an unknown frame gives NO_PAGE."""
    frames = FrameMap(spaces, tables.read)
    assert [NO_PAGE] == flat(frames, 77)
    assert spaces.pages == frames.refresh(10_000)
    assert [0, 511, 512, NO_PAGE, NO_PAGE] == flat(frames, 9488, 8977, 77, 9400, 5)
    assert [0] == frames.frames(88, 89).tolist()
    assert 10000 - 513 == frames.frames(1, 2)[0]


def test_turns_cover_everything(spaces: SpaceMap, tables: Tables) -> None:
    """Each turn reads so many pages, going on where the last one ended."""
    frames = FrameMap(spaces, tables.read)
    for _ in range(3):
        assert 171 == frames.refresh(171)
    assert 513 == tables.read_pages
    assert [0, 511, 512] == flat(frames, 9488, 8977, 77)


def test_a_page_that_moved_is_found_after_its_turn(
    spaces: SpaceMap, tables: Tables
) -> None:
    """Until then the old frame stands for it."""
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    tables.frame[7, 512] = 4242
    assert [0, NO_PAGE] == flat(frames, 9488, 4242)
    frames.refresh(1000)
    assert [NO_PAGE, 0] == flat(frames, 9488, 4242)


def test_given_up_pages_are_forgotten(spaces: SpaceMap, tables: Tables) -> None:
    """Frames of a process that ended are nobody's, without another read of it."""
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    spaces.forget(9)
    frames.refresh(8)
    assert [NO_PAGE, 0] == flat(frames, 77, 9488)


def test_regions_are_runs_of_pages(spaces: SpaceMap, tables: Tables) -> None:
    """Adjacent pages of one region are one range; empty regions are counted."""
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    region, first, last, empty = frames.to_flat(
        np.array([0, 50, 9000, 9478]), np.array([50, 100, 9478, 20000])
    )
    # Frames fall as pages rise: 9488 is page 0, 9478 page 10, 8999 page 489.
    assert [3, 2, 2, 1] == region.tolist()
    assert [(0, 11), (11, 88), (89, 489), (512, 513)] == list(
        zip(first.tolist(), last.tolist(), strict=True)
    )
    assert 1 == empty


def test_memory_is_four_bytes_a_page(spaces: SpaceMap, tables: Tables) -> None:
    """The way back comes on demand, and takes four bytes a frame of 256 KiB."""
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    assert 4 * spaces.pages == frames.nbytes
    flat(frames, 1)
    assert frames.nbytes <= 4 * spaces.pages + 513 * (4 * 64 + 8) + 4096


def test_memory_does_not_grow_as_pages_move(spaces: SpaceMap) -> None:
    """What no managed page stands on any more is given back."""
    tables = Tables()
    frames = FrameMap(spaces, tables.read)
    sizes = []
    for turn in range(1, 40):
        tables.frame = {(7, p): turn * 100_000 + p for p in range(512, 1024)}
        frames.refresh(1000)
        assert [0] == flat(frames, turn * 100_000 + 512)
        sizes.append(frames.nbytes)
    assert max(sizes) - sizes[0] <= 4 * (1 << 17)  # a directory of 39 x 100,000


def test_the_way_back_follows_every_turn(spaces: SpaceMap, tables: Tables) -> None:
    """Made once, then kept up: page by page the same as a map made anew."""
    rng = np.random.default_rng(23)
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    asked = np.arange(0, 12_000, dtype=np.uint64)
    frames.flat_pages(asked)
    for _ in range(20):
        for page in rng.integers(512, 1024, 60).tolist():
            tables.frame[7, page] = int(rng.integers(0, 12_000))
        frames.refresh(1000)
        frames.refresh(1000)  # a page whose frame another gave up has its turn
        anew = FrameMap(spaces, tables.read)
        anew.refresh(1000)
        assert frames.flat_pages(asked).tolist() == anew.flat_pages(asked).tolist()


def test_of_pages_that_share_a_frame_the_first_stands_for_it(
    spaces: SpaceMap, tables: Tables
) -> None:
    """And when it leaves, the next at its turn; both are counted."""
    tables.frame[7, 700] = tables.frame[7, 800] = 5
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    assert [700 - 512] == flat(frames, 5)
    assert 1 == frames.counts.shared
    tables.frame[7, 700] = 6
    frames.refresh(1000)
    assert [800 - 512, 700 - 512] == flat(frames, 5, 6)


def test_what_cannot_be_translated_is_counted(spaces: SpaceMap, tables: Tables) -> None:
    """Asked and found, hidden frames, frames beyond 32 bits: in words too."""
    tables.frame[7, 513] = 1 << 33
    real = tables.read

    def read(pid: int, start: int, end: int) -> np.ndarray:
        entry = real(pid, start, end)
        if start <= 514 < end:
            entry[514 - start] = PRESENT  # there, and not for us to see
        return entry

    frames = FrameMap(spaces, read)
    frames.refresh(1000)
    assert [NO_PAGE, 0, NO_PAGE] == flat(frames, 1 << 33, 9488, 5)
    counts = frames.counts
    assert (3, 1, 2) == (counts.asked, counts.found, counts.untranslated)
    assert (513, 1, 1, 0) == (
        counts.read,
        counts.hidden,
        counts.beyond,
        counts.shared,
    )
    assert str(counts) == (
        "1 of 3 frames translated; 1 hidden entries (CAP_SYS_ADMIN shows them), "
        "1 beyond 16 TiB"
    )


def test_a_page_number_of_a_new_owner_is_not_found_where_the_old_one_was(
    spaces: SpaceMap, tables: Tables
) -> None:
    """Its frame is forgotten at once, before the new owner's turn comes."""
    frames = FrameMap(spaces, tables.read)
    frames.refresh(1000)
    assert [512] == flat(frames, 77)
    spaces.forget(9)
    spaces.take_renewed()
    spaces.update(11, np.array([[2048, 2049]]))
    tables.frame[11, 2048] = 99
    frames.refresh(1)
    assert [NO_PAGE] == flat(frames, 77)
    frames.refresh(1000)
    assert [512] == flat(frames, 99)


def test_a_process_that_is_gone_has_no_frames() -> None:
    """Its entries read as zeros; descriptors are given back."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    pagemaps = Pagemaps()
    assert [0, 0] == pagemaps.read(child, 10, 12).tolist()
    assert 1 == len(pagemaps.read(os.getpid(), 10, 11))
    pagemaps.close()
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208

"""The idle bitmap's layout, on a file; and its driver."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.hints.live import idle_page as module
from isotherm.hints.live.idle_page import IdlePageBits

FIRST_FRAME = 3 * 512 + 64
NOTHING_MAPPED = np.empty((0, 2), np.int64)


class Kernel:
    """The bitmap as the kernel keeps it: a 1 that is written marks a frame idle.

    Attributes:
        path: The file.
        frame: Frame of virtual pages; 0 if none.
        untracked: Frames that are never idle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frame = {page: FIRST_FRAME + page * 3 for page in range(1024)}
        self.untracked: set[int] = set()
        path.write_bytes(bytes(1024))

    def bits(self) -> np.ndarray:
        """Return one element a frame."""
        data = np.frombuffer(self.path.read_bytes(), np.uint8)
        return np.unpackbits(data, bitorder="little")

    def set_bits(self, bits: np.ndarray) -> None:
        """Write one element a frame."""
        self.path.write_bytes(np.packbits(bits, bitorder="little").tobytes())

    def touch(self, *pages: int) -> None:
        """Access pages."""
        bits = self.bits()
        bits[[self.frame[page] for page in pages]] = 0
        self.set_bits(bits)

    def read(self, pid: int, start: int, end: int) -> np.ndarray:
        """Return pagemap entries."""
        frame = [self.frame.get(page, 0) for page in range(start, end)]
        entry = np.array(frame, np.uint64)
        return np.where(entry > 0, entry | np.uint64(1 << 63), np.uint64(0))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Do as mm/page_idle.c does: whole words, ones only."""
        assert offset % 8 == len(data) % 8 == 0
        bits = self.bits()
        new = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        bits[offset * 8 : offset * 8 + len(new)] |= new
        bits[list(self.untracked)] = 0
        self.set_bits(bits)
        return len(data)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Return a kernel that tracks 8192 frames."""
    made = Kernel(tmp_path / "bitmap")
    monkeypatch.setattr(module.os, "pwrite", made.pwrite)
    return made


@pytest.fixture
def reader(kernel: Kernel) -> IdlePageBits:
    """Return an open reader."""
    made = IdlePageBits(kernel.path, kernel.read)
    made.open()
    yield made
    made.close()


GRANULES = np.array([0, 1])


def pages(bits: np.ndarray) -> list[int]:
    """Return the pages whose bit is set."""
    return np.flatnonzero(np.unpackbits(bits.ravel(), bitorder="little")).tolist()


def test_touched_pages_are_not_idle(reader: IdlePageBits, kernel: Kernel) -> None:
    """After clearing nothing is set; then exactly what was touched."""
    assert reader.clear(1, GRANULES, NOTHING_MAPPED) is None
    assert [] == pages(reader.read(1, GRANULES)[0])
    kernel.touch(0, 7, 513, 1023)
    bits, ok = reader.read(1, GRANULES)
    assert ([0, 7, 513, 1023], True) == (pages(bits), ok.all())
    # Only our frames were marked, and all of them.
    kernel.touch()
    assert 1020 == kernel.bits().sum()


def test_only_what_is_asked_for_is_marked(reader: IdlePageBits, kernel: Kernel) -> None:
    """Frames of other granules stay as they were."""
    reader.clear(1, GRANULES[1:], NOTHING_MAPPED)
    marked = np.flatnonzero(kernel.bits())
    assert [kernel.frame[page] for page in range(512, 1024)] == marked.tolist()


def test_a_page_without_memory_was_not_touched(
    reader: IdlePageBits, kernel: Kernel
) -> None:
    """It has no frame, and so no bit."""
    del kernel.frame[5]
    bits, _ = reader.read(1, GRANULES)
    assert [page for page in range(1024) if page != 5] == pages(bits)


def test_an_untracked_page_is_stuck(reader: IdlePageBits, kernel: Kernel) -> None:
    """A frame that cannot be marked says nothing."""
    kernel.untracked = {kernel.frame[9]}
    stuck = reader.clear(1, GRANULES, NOTHING_MAPPED)
    assert stuck is not None
    assert [9] == pages(stuck)


def test_a_huge_page_has_the_bit_of_its_head(
    reader: IdlePageBits, kernel: Kernel
) -> None:
    """The kernel tracks its first frame only; all its pages follow that."""
    kernel.frame = {page: 1024 + page for page in range(512)}
    kernel.untracked = set(range(1025, 1536))
    assert reader.clear(1, GRANULES[:1], NOTHING_MAPPED) is None
    assert [] == pages(reader.read(1, GRANULES[:1])[0])
    kernel.touch(0)
    assert list(range(512)) == pages(reader.read(1, GRANULES[:1])[0])


def test_frames_beyond_the_bitmap_count_as_touched(
    reader: IdlePageBits, kernel: Kernel
) -> None:
    """Such memory came after; nobody can say that it is idle."""
    kernel.frame = {3: 1 << 20}
    assert [3] == pages(reader.read(1, GRANULES)[0])


def test_the_probe_says_what_is_missing(tmp_path: Path, kernel: Kernel) -> None:
    """Absent: the file, its errno, the kernel option; present: the file."""
    found = IdlePageBits.probe(tmp_path / "none")
    assert (False, None) == (found.present, found.command)
    expected = "none: ENOENT: needs a kernel with CONFIG_IDLE_PAGE_TRACKING"
    assert f"{tmp_path}/{expected}" == found.why
    assert IdlePageBits.probe(kernel.path).present

"""Single pages by DAMON, on a tree of files that behaves like the kernel's."""

import numpy as np

from isotherm.core.changes import HostChanges
from isotherm.core.clock import VirtualClock
from isotherm.hints.batch import AccessedBits, Look, Mechanism
from isotherm.hints.live.damon_pages import CHECKS, DamonPages, most_pages
from isotherm.machine.linux.spaces import SpaceMap
from tests.hints.live.fake_damon import FIRST, MS, FakeDamon, admin_of, nr_kdamonds


def test_single_pages_are_read_block_by_block(
    damon: FakeDamon, spaces: SpaceMap, clock: VirtualClock, open_trace, traces, own_pid
) -> None:
    """A window of one-page regions goes through the look's range, in turns."""
    source = DamonPages(
        spaces,
        admin_of(damon, HostChanges(None), 1),
        pages=64,
        budget=1.0,
        now_ns=clock.now_ns,
        open_trace=open_trace,
        threaded=False,
    )
    source.open()
    source.step()
    assert [] == damon.commands
    source.look((Look(Mechanism.ACCESSED_BIT, 64, 256, window_s=0.1),))
    places = []
    for _ in range(4):
        source.step()
        ranges = damon.seen[0][1]
        assert 64 == len(ranges)
        assert all(end - start == 4096 for start, end in ranges)
        first = (ranges[0][0] >> 12) - FIRST
        places.append(first)
        for _ in range(CHECKS):
            clock.advance(100 * MS)
            pages = [page >> 12 for page, _ in ranges]
            traces[-1].report(*((0, p, p + 1, p % 5 == 0) for p in pages))
        source.step()  # reads, and moves the window on if the budget lets it
        batches = source.drain()
        assert CHECKS == len(batches)
        seen = batches[0].seen
        assert isinstance(seen, AccessedBits)
        assert list(range(first // 8, first // 8 + 8)) == seen.block.tolist()
        found = np.unpackbits(seen.bits, bitorder="little")
        expected = [int((FIRST + first + i) % 5 == 0) for i in range(64)]
        assert expected == found.tolist()
        assert np.allclose(0.1, seen.interval_s)
        clock.advance(60_000 * MS)
    assert [64, 128, 192, 64] == places
    source.close()
    assert 0 == nr_kdamonds(damon)


def test_the_window_fits_the_limit_on_files(monkeypatch) -> None:
    """Two files a page, of a third of those that may be open."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert 168 == most_pages()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 20, 1 << 20))
    assert 4096 == most_pages()

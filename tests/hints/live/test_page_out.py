"""Sampled page-out on a real process: who comes back was touched, exactly."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.clock import MonotonicClock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import LiveMechanism, Look
from isotherm.hints.live.page_out import PageOutSource, compressed_swap
from isotherm.hints.live.pagemap_scan import Category, open_pagemap, pages_in, scan_runs

PAGES = 4096
ROOT = Path(__file__).resolve().parents[3]


def load_zram_swap():
    """Return the benchmarks' zram set-up."""
    path = ROOT / "benchmarks" / "zram_swap.py"
    spec = importlib.util.spec_from_file_location("zram_swap", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["zram_swap"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zram() -> Iterator[None]:
    """Give a swap on zram while the tests of this file run."""
    module = load_zram_swap()
    why = module.missing()
    if why:
        pytest.skip(why)
    with module.zram_swap(256 << 20):
        yield


def swapped(target) -> int:
    """Return how many pages of the target are out."""
    import os

    fd = open_pagemap(target.pid)
    try:
        end = target.vpage + target.pages
        return pages_in(scan_runs(fd, target.vpage, end, all_of=Category.SWAPPED))
    finally:
        os.close(fd)


def pages_of(batches) -> tuple[set[int], set[int]]:
    """Return the pages that were looked at, and those found touched."""
    looked, touched = set(), set()
    for batch in batches:
        seen = batch.seen
        if seen.observed is None:
            continue
        page = seen.block.astype(np.int64)[:, None] * 8 + np.arange(8)
        bits = np.unpackbits(seen.bits, bitorder="little").reshape(-1, 8) == 1
        known = np.unpackbits(seen.observed, bitorder="little").reshape(-1, 8) == 1
        assert not (bits & ~known).any()
        looked |= set(page[known].tolist())
        touched |= set(page[bits].tolist())
    return looked, touched


@pytest.mark.slow
@pytest.mark.parametrize("fetch", [True, False])
def test_touched_pages_come_back_and_no_others(zram, new_target, fetch: bool) -> None:
    """Of all that was put out, the bits are those of the pages that were touched."""
    target = new_target(PAGES)
    target.fill()
    with PageOutSource(
        target.spaces(), MonotonicClock(), sample_blocks=512, fetch=fetch
    ) as source:
        source.look(())
        out = swapped(target)
        target.read(0, PAGES, 7)
        target.write(1, PAGES, 97)
        batches = source.drain()
        looked, touched = pages_of(batches)
        expected = {p for p in looked if p % 7 == 0 or (p - 1) % 97 == 0}
        assert out == len(looked)
        assert len(looked) > 1000
        assert expected == touched
        assert all(0 < s < 60 for b in batches for s in b.seen.interval_s.tolist())
        assert sum(b.application_ns for b in batches) > 0
        assert sum(b.background_ns for b in batches) > 0


@pytest.mark.slow
def test_confirmed_pages_are_the_ones_looked_at(zram, new_target) -> None:
    """Named pages come first, before any that are drawn, a block each."""
    target = new_target(PAGES)
    target.fill()
    with PageOutSource(target.spaces(), MonotonicClock(), sample_blocks=3) as source:
        source.confirm(np.array([800, 807, 1600, 2400], np.uint32))
        source.look(())
        target.read(1601, 1602)
        looked, touched = pages_of(source.drain())
    assert {*range(800, 808), *range(1600, 1608), *range(2400, 2408)} == looked
    assert {1601} == touched


@pytest.mark.slow
def test_looks_say_where_and_how_long(zram, new_target) -> None:
    """Only the range is drawn from, and nothing is said before the window is over."""
    target = new_target(PAGES)
    target.fill()
    mine = Look(LiveMechanism.PAGE_OUT, 1024, 2048, window_s=3600.0)
    source = PageOutSource(target.spaces(), MonotonicClock(), sample_blocks=16)
    with source:
        source.look((mine,))
        assert 0 < swapped(target) <= 128
        assert set() == pages_of(source.drain())[0]
        fd = open_pagemap(target.pid)
        runs = scan_runs(
            fd, target.vpage, target.vpage + PAGES, all_of=Category.SWAPPED
        )
        assert (runs - target.vpage >= 1024).all()
        assert (runs - target.vpage <= 2048).all()


@pytest.mark.slow
def test_every_look_gets_its_share(zram, new_target) -> None:
    """Looks at many small ranges: a block of each, none left out."""
    target = new_target(PAGES)
    target.fill()
    looks = tuple(
        Look(LiveMechanism.PAGE_OUT, first, first + 64)
        for first in range(0, PAGES, 128)
    )
    source = PageOutSource(target.spaces(), MonotonicClock(), sample_blocks=len(looks))
    with source:
        source.look(looks)
        looked, _ = pages_of(source.drain())
    assert {k.start_page // 64 for k in looks} == {page // 64 for page in looked}


@pytest.mark.slow
@pytest.mark.parametrize("keep_out", [False, True])
def test_close_brings_back_what_is_out(zram, new_target, keep_out: bool) -> None:
    """Nothing stays in swap when the source is closed, unless it was to."""
    target = new_target(PAGES)
    target.fill()
    source = PageOutSource(
        target.spaces(), MonotonicClock(), sample_blocks=32, keep_out=keep_out
    )
    source.open()
    source.look(())
    out = swapped(target)
    assert out > 0
    source.close()
    source.close()
    assert (out if keep_out else 0) == swapped(target)


@pytest.mark.slow
def test_a_target_that_ends_is_counted_as_lost(zram, new_target) -> None:
    """Its blocks are lost; nothing is reported, nobody else is touched."""
    target = new_target(PAGES)
    target.fill()
    with PageOutSource(target.spaces(), MonotonicClock(), sample_blocks=8) as source:
        source.look(())
        target.close()
        batches = source.drain()
        assert set() == pages_of(batches)[0]
        assert 8 * 8 == sum(batch.lost for batch in batches)
        source.look(())
        (later,) = source.drain()
        assert 0 == len(later.seen.block)
        assert later.lost > 0


def swaps(root: Path, *areas: str, zswap: str | None = None) -> Path:
    """Write a host's list of swap areas."""
    (root / "proc").mkdir()
    lines = ["Filename Type Size Used Priority", *(f"{a} x 1 0 1" for a in areas)]
    (root / "proc/swaps").write_text("\n".join(lines) + "\n")
    if zswap is not None:
        (root / "sys/module/zswap/parameters").mkdir(parents=True)
        (root / "sys/module/zswap/parameters/enabled").write_text(zswap + "\n")
    return root


@pytest.mark.parametrize(
    ("areas", "zswap", "expected"),
    [
        ((), "Y", None),
        (("/dev/zram0",), None, "zram"),
        (("/dev/zram0", "/dev/zram3"), "N", "zram"),
        (("/dev/sda2",), "N", None),
        (("/dev/sda2",), "Y", "zswap"),
        (("/dev/zram0", "/swapfile"), None, None),
    ],
)
def test_only_compressed_memory_is_paged_out_to(
    tmp_path: Path, areas: tuple[str, ...], zswap: str | None, expected: str | None
) -> None:
    """A disk behind the swap is refused, unless zswap stands before it."""
    assert expected == compressed_swap(swaps(tmp_path, *areas, zswap=zswap))


def test_without_swap_the_probe_says_what_to_do(tmp_path: Path) -> None:
    """The command sets up a zram swap; nothing is set up by asking."""
    found = PageOutSource.probe(swaps(tmp_path))
    assert not found.present
    assert found.command is not None
    assert "swapon" in found.command


def test_open_refuses_without_compressed_swap(new_target, tmp_path: Path) -> None:
    """Paging out to nowhere would silently do nothing: it is refused."""
    spaces = new_target(64).spaces()
    source = PageOutSource(spaces, MonotonicClock(), root=swaps(tmp_path))
    with pytest.raises(UnsupportedError):
        source.open()

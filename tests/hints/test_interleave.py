"""Interleave arithmetic: there and back, for every number of ways."""

import itertools

import numpy as np
import pytest

from isotherm.hints.interleave import WAYS, Window

GRAINS = [256 << n for n in range(7)]
PAGE = 4096


def window(ways: int, granularity: int, position: int = 0, rounds: int = 8) -> Window:
    """Return a window of so many granules of each device."""
    size = rounds * ways * max(granularity, PAGE)
    return Window(5 << 28, size, ways, granularity, position, 3 << 28)


@pytest.mark.parametrize("granularity", GRAINS)
@pytest.mark.parametrize("ways", WAYS)
def test_every_address_comes_back(ways: int, granularity: int) -> None:
    """Each line of the region is on one device, and its address there leads back."""
    region = window(ways, granularity)
    host = np.arange(region.host, region.host + region.size, 64, dtype=np.uint64)
    device, position = region.to_device(host)
    owner = np.zeros(ways, np.int64)
    for p in range(ways):
        own = window(ways, granularity, p)
        mine = position == p
        owner[p] = mine.sum()
        assert (host[mine] == own.to_host(device[mine])).all()
        # The device's memory is used from end to end, each line once.
        lines = np.arange(own.device, own.device + own.device_size, 64)
        assert lines.tolist() == np.sort(device[mine]).tolist()
    assert (owner == len(host) // ways).all()


@pytest.mark.parametrize("ways", [3, 6, 12])
def test_ways_by_three_divide_what_is_left(ways: int) -> None:
    """As the specification has it: shift by the factor of two, then divide by 3."""
    granularity = 1024
    region = window(ways, granularity)
    host = np.arange(region.host, region.host + region.size, 256, dtype=np.uint64)
    offset = (host - np.uint64(region.host)).astype(np.int64)
    twos = {3: 0, 6: 1, 12: 2}[ways]
    upper = (offset >> (10 + twos)) // 3
    expected = region.device + (upper << 10 | offset & 1023)
    device, _ = region.to_device(host)
    assert expected.tolist() == device.tolist()


def lines_of(pieces, index: int) -> set[int]:
    """Return the pages that the pieces of a unit touch."""
    found = set()
    for row in np.flatnonzero(pieces.unit == index).tolist():
        first = int(pieces.frame[row])
        found |= set(range(first, first + int(pieces.frames[row])))
    return found


@pytest.mark.parametrize(
    ("ways", "granularity", "shift"),
    [
        (w, g, s)
        for w, g, s in itertools.product(WAYS, GRAINS, range(8, 17))
        if (1 << s) <= 8 * max(g, PAGE)
    ],
)
def test_pieces_are_where_the_unit_is(ways: int, granularity: int, shift: int) -> None:
    """Pages of the pieces are those of the unit's lines; their shares add up."""
    own = window(ways, granularity, ways - 1)
    first = own.device >> shift
    units = np.arange(first, (own.device + own.device_size) >> shift, dtype=np.uint64)
    units = units[:: max(1, len(units) // 16)]
    assert own.holds(units, shift).all()
    pieces = own.pieces(units, shift)
    part = np.bincount(pieces.unit, pieces.part, len(units))
    assert part == pytest.approx(np.ones(len(units)))
    bytes_ = np.bincount(pieces.unit, pieces.share * pieces.frames * PAGE, len(units))
    assert bytes_ == pytest.approx(np.full(len(units), 1 << shift))
    assert (pieces.share <= 1).all()
    for index, unit in enumerate(units.tolist()):
        lines = np.arange(unit << shift, (unit + 1) << shift, 64, dtype=np.uint64)
        expected = set((own.to_host(lines) // np.uint64(PAGE)).tolist())
        assert expected == lines_of(pieces, index)


def test_units_beyond_the_window() -> None:
    """Units before it, behind it, and over its edge are not held."""
    own = Window(1 << 30, 8192, 1, 4096, 0, 4096)
    unit = np.array([0, 1, 2, 3, (1 << 48) - 1], np.uint64)
    assert [False, True, True, False, False] == own.holds(unit, 12).tolist()
    assert [False, False, False] == own.holds(unit[:3], 13).tolist()


@pytest.mark.parametrize(
    "figures",
    [
        {"ways": 5},
        {"granularity": 128},
        {"granularity": 32768},
        {"granularity": 768},
        {"position": 1},
        {"position": -1},
        {"size": 0},
        {"size": 4096 + 64},
        {"host": 64},
        {"device": 100},
        {"size": 1 << 53},
    ],
)
def test_windows_that_cannot_be(figures: dict[str, int]) -> None:
    """Figures that no decoder can have are refused."""
    with pytest.raises(ValueError, match="expected"):
        Window(**{"host": 0, "size": 1 << 20, **figures})


def test_frames_of_the_region() -> None:
    """All devices' memory together."""
    assert (16, 24) == Window(65536, 8 * PAGE, 2, 256).frames()

"""Memory that several processes map: one of them manages it."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.machine.linux.intervals import covered
from isotherm.machine.linux.mappings import (
    Managed,
    MappingPolicy,
    Mappings,
    parse_maps,
)
from isotherm.machine.linux.sharing import (
    NO_ALIASES,
    Shared,
    mirrors,
    resolve,
    shareable,
    split,
)
from isotherm.machine.linux.spaces import NO_PAGE, SpaceMap

SHM = "/memfd:x (deleted)"
BOTH = MappingPolicy(shmem=True, file=True)


@dataclass
class Process:
    """A process and its mappings, from lines of ``maps``."""

    pid: int
    mappings: Mappings

    @property
    def managed(self) -> Managed:
        """What would be managed of it alone."""
        return BOTH.select(self.mappings)


def process(pid: int, *lines: tuple[int, int, str, int, int, str]) -> Process:
    """Return a process: first page, pages, rights, page of the file, inode, name."""
    text = "".join(
        f"{first << 12:x}-{first + pages << 12:x} {rights} {offset << 12:08x} 08:01"
        f" {inode} {name}\n"
        for first, pages, rights, offset, inode, name in lines
    )
    return Process(pid, parse_maps(text.encode()))


def test_maps_name_device_inode_and_offset() -> None:
    """Columns beside the names: what a page is called in every process."""
    found = process(1, (512, 64, "rw-s", 32, 77, SHM)).mappings
    assert [8 << 32 | 1] == found.device.tolist()
    assert ([77], [32]) == (found.inode.tolist(), found.offset.tolist())


def test_only_what_others_can_map_is_shareable() -> None:
    """Shared, or of a file and never written; private copies are one's own."""
    found = process(
        1,
        (512, 64, "rw-s", 0, 7, SHM),
        (1024, 64, "r-xp", 0, 8, "/usr/lib/x.so"),
        (2048, 64, "rw-p", 64, 8, "/usr/lib/x.so"),
        (4096, 64, "rw-p", 0, 0, ""),
    ).mappings
    assert [True, True, False, False] == shareable(found).tolist()


def test_the_first_that_was_followed_manages() -> None:
    """Of pages that both map; what only the second maps is its own."""
    one = process(1, (512, 64, "rw-s", 0, 7, SHM))
    other = process(2, (8192, 128, "rw-s", 0, 7, SHM), (16384, 32, "rw-p", 0, 0, ""))
    found = split([one, other])
    assert [[512, 576]] == found.own[1].tolist()
    assert [[8256, 8320], [16384, 16416]] == found.own[2].tolist()
    assert [[8192, 8256, 1, 512]] == found.aliases[2].tolist()
    assert 64 == found.aliased_pages


def test_offsets_of_a_file_are_minded() -> None:
    """Windows on a file overlap in the middle."""
    one = process(1, (512, 64, "r--s", 32, 7, "/data"))
    other = process(2, (4096, 128, "r--s", 0, 7, "/data"))
    found = split([one, other])
    assert [[4128, 4192, 1, 512]] == found.aliases[2].tolist()
    assert [[4096, 4128], [4192, 4224]] == found.own[2].tolist()


def test_a_process_that_maps_a_file_twice_manages_it_once() -> None:
    """The second mapping is an alias of its own first."""
    twice = process(1, (512, 64, "rw-s", 0, 7, SHM), (4096, 64, "r--s", 0, 7, SHM))
    found = split([twice])
    assert [[512, 576]] == found.own[1].tolist()
    assert [[4096, 4160, 1, 512]] == found.aliases[1].tolist()


def test_other_files_are_others() -> None:
    """An inode alone names nothing: devices differ."""
    one = process(1, (512, 64, "rw-s", 0, 7, SHM))
    other = process(2, (512, 64, "rw-s", 0, 8, "/memfd:y"))
    assert {} == split([one, other]).aliases


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_every_page_is_managed_by_who_showed_it_first(seed: int) -> None:
    """Page by page: one keeper, the first of those that map it, and aliases to it."""
    rng = np.random.default_rng(seed)
    mappers = []
    for pid in range(1, int(rng.integers(2, 7))):
        at, lines = 512, []
        for _ in range(int(rng.integers(0, 5))):
            pages = int(rng.integers(1, 30))
            rights = ("rw-s", "r--p", "rw-p")[int(rng.integers(0, 3))]
            offset, inode = int(rng.integers(0, 20)), int(rng.integers(1, 3))
            lines.append((at, pages, rights, offset, inode, "/data"))
            at += pages + int(rng.integers(0, 3))
        mappers.append(process(pid, *lines))
    found = split(mappers)
    kept: dict[tuple[int, int], tuple[int, int]] = {}
    for mapper in mappers:
        table = mapper.mappings
        owns = covered(found.own[mapper.pid], np.arange(512, 900))
        aliases = found.aliases.get(mapper.pid, NO_ALIASES)
        managed = covered(mapper.managed.ranges, np.arange(512, 900))
        for row in range(len(table)):
            for page in range(int(table.start[row]), int(table.end[row])):
                if not managed[page - 512]:
                    continue
                here = (mapper.pid, page)
                if shareable(table)[row]:
                    offset = int(table.offset[row]) + page - int(table.start[row])
                    here = kept.setdefault((int(table.inode[row]), offset), here)
                keeper, there = resolve(aliases, np.array([page]))
                if here == (mapper.pid, page):
                    assert owns[page - 512]
                    assert -1 == keeper[0]
                else:
                    assert not owns[page - 512]
                    assert here == (keeper[0], there[0])


def test_pages_are_resolved_both_ways() -> None:
    """From an alias to the keeper, and from the keeper to all who map it."""
    rows = np.array([[100, 110, 1, 500], [200, 210, 3, 40]])
    keeper, there = resolve(rows, np.array([99, 100, 109, 110, 205]))
    assert [-1, 1, 1, -1, 3] == keeper.tolist()
    assert [500, 509, 45] == there[keeper >= 0].tolist()
    found = mirrors({2: rows}, 1, np.array([[505, 600]]))
    assert [(2, 105, 505, 510)] == list(found)


def test_a_space_map_finds_aliases() -> None:
    """Accesses of another process are to the keeper's flat pages."""
    spaces = SpaceMap()
    spaces.update(1, np.array([[512, 576]]))
    version = spaces.version
    spaces.set_aliases({2: np.array([[8192, 8256, 1, 512]])})
    assert spaces.version > version
    vpage = np.array([8192, 8255, 8256], np.uint64)
    flat = spaces.flat_pages(2, vpage)
    ours = spaces.flat_pages(1, np.array([512, 575], np.uint64))
    assert [*ours.tolist(), NO_PAGE] == flat.tolist()
    assert (1, 2) == spaces.pids()
    pid, page = spaces.locate(flat[:2])
    assert ([1, 1], [512, 575]) == (pid.tolist(), page.tolist())
    version = spaces.version
    spaces.set_aliases({2: np.array([[8192, 8256, 1, 512]])})
    assert version == spaces.version
    spaces.forget(1)
    assert [NO_PAGE] == spaces.flat_pages(2, np.array([8192], np.uint64)).tolist()


def test_nobody_is_no_error() -> None:
    """No processes, nothing shared."""
    assert Shared() == split([])

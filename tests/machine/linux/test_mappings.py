"""What stands behind a mapping, and which mappings are managed."""

import numpy as np
import pytest

from isotherm.machine.linux.mappings import (
    Kind,
    MappingPolicy,
    derive_kind,
    parse_locked,
    parse_maps,
    parse_numa_maps,
)

MAPS = b"""\
555555554000-555555556000 r--p 00000000 fe:00 7341      /usr/bin/app
555555556000-555555557000 rw-p 00002000 fe:00 7341      /usr/bin/app
555555560000-5555555a0000 rw-p 00000000 00:00 0         [heap]
7f0000000000-7f0000400000 ---p 00000000 00:00 0
7f0000400000-7f0000800000 rw-p 00000000 00:00 0
7f0000800000-7f0000804000 rw-p 00000000 00:00 0         [anon:arena]
7f0001000000-7f0001100000 rw-s 00000000 00:01 12        /memfd:ring (deleted)
7f0002000000-7f0002200000 rw-p 00000000 00:0f 44        /anon_hugepage (deleted)
7f0003000000-7f0003001000 rw-s 00000000 00:06 9         /dev/nvidia0
7f0003001000-7f0003002000 rw-s 00000000 00:0e 1         anon_inode:[io_uring]
7ffff0000000-7ffff0021000 rw-p 00000000 00:00 0         [stack]
7ffff0100000-7ffff0104000 r--p 00000000 00:00 0         [vvar]
7ffff0104000-7ffff0106000 r-xp 00000000 00:00 0         [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


def test_maps_are_columns() -> None:
    """Addresses in pages, one row a mapping of user memory, names kept."""
    found = parse_maps(MAPS)
    assert 13 == len(found)
    assert (0x555555554, 0x555555556) == (int(found.start[0]), int(found.end[0]))
    assert [Kind.FILE, Kind.FILE, Kind.ANONYMOUS] == found.kind[:3].tolist()
    assert [False, True] == found.readable[[3, 4]].tolist()
    assert "[anon:arena]" == found.name_of(0x7F0000801)
    assert found.name_of(0x7F0000804) is None
    assert 0 == len(parse_maps(b""))


def test_a_mapping_seen_twice_counts_once() -> None:
    """A file read while the process maps and unmaps may repeat and overlap."""
    twice = MAPS[: MAPS.index(b"7f0000400000-")] + MAPS[: MAPS.index(b"[heap]")]
    assert 4 == len(parse_maps(twice))


@pytest.mark.parametrize(
    ("name", "inode", "shared", "kind"),
    [
        ("", 0, False, Kind.ANONYMOUS),
        ("[stack]", 0, False, Kind.ANONYMOUS),
        ("[stack:77]", 0, False, Kind.ANONYMOUS),
        ("/dev/zero", 5, False, Kind.ANONYMOUS),
        ("/dev/zero (deleted)", 5, True, Kind.SHMEM),
        ("[anon_shmem:x]", 5, True, Kind.SHMEM),
        ("/dev/shm/x", 5, True, Kind.SHMEM),  # noqa: S108
        ("/SYSV00000000 (deleted)", 5, True, Kind.SHMEM),
        ("/dev/hugepages/x", 5, True, Kind.HUGETLB),
        ("/dev/mem", 5, True, Kind.DEVICE),
        ("socket:[12]", 5, True, Kind.DEVICE),
        ("[vvar_vclock]", 0, False, Kind.SPECIAL),
        ("[uprobes]", 0, False, Kind.SPECIAL),
        ("[something new]", 0, False, Kind.SPECIAL),
        ("/data/x (deleted)", 5, False, Kind.FILE),
    ],
)
def test_kinds(name: str, inode: int, shared: bool, kind: Kind) -> None:
    """By name; what is in brackets and not known is never plain memory."""
    assert kind is derive_kind(name, inode, shared)


def test_only_private_memory_is_managed_by_default() -> None:
    """Everything else is counted, by kind; what is too short as well."""
    managed = MappingPolicy().select(parse_maps(MAPS))
    expected = [
        [0x555555560, 0x5555555A0],
        [0x7F0000400, 0x7F0000804],
        [0x7FFFF0000, 0x7FFFF0021],
    ]
    assert expected == managed.ranges.tolist()
    left_out = {
        "shmem": 256, "file": 3, "hugetlb": 512, "device": 2, "special": 6,
        "reserved": 1024,
    }  # fmt: skip
    assert left_out == managed.left_out
    short = MappingPolicy(least_pages=64).select(parse_maps(MAPS))
    assert 33 == short.left_out["short"]


def test_more_is_managed_when_asked_for() -> None:
    """Shared memory and files, never devices, pools and special mappings."""
    policy = MappingPolicy(shmem=True, file=True, least_pages=1)
    managed = policy.select(parse_maps(MAPS))
    pages = int(np.diff(managed.ranges).sum())
    assert 64 + 1024 + 4 + 33 + 256 + 3 == pages
    assert {"hugetlb", "device", "special", "reserved"} == set(managed.left_out)


def test_locked_and_pooled_pages_are_taken_out() -> None:
    """Locked pages unless the policy says otherwise; pools always."""
    held = np.array([[0x555555570, 0x555555580]])
    for policy, left in ((MappingPolicy(), 16), (MappingPolicy(mlocked=True), None)):
        managed = policy.select(parse_maps(MAPS), locked=held)
        assert left == managed.left_out.get("mlocked")
        assert (48 if left else 64) == int(np.diff(managed.ranges[:-2]).sum())
    pooled = MappingPolicy(mlocked=True).select(parse_maps(MAPS), hugetlb=held)
    assert 512 + 16 == pooled.left_out["hugetlb"]


NUMA_MAPS = b"""\
7f0000400000 default anon=1024 dirty=1024 N0=1000 N1=24 kernelpagesize_kB=4
7f0001000000 bind:1 file=/memfd:ring\\040(deleted) mapped=3 N1=3 kernelpagesize_kB=4
7f0002000000 default file=/anon_hugepage\\040(deleted) huge kernelpagesize_kB=2048
7f0004000000 prefer (many):0-1 anon=1 N0=1 kernelpagesize_kB=4
7f0005000000 prefer=static:1 anon=1 N0=1 kernelpagesize_kB=4
7f0006000000 weighted interleave:0,2 anon=1 N0=1 kernelpagesize_kB=4
7f0007000000 interleave=relative:0-3
7f0008000000 local anon=1 N0=1 kernelpagesize_kB=4
"""


def test_policies_that_bind_are_found() -> None:
    """Bound and interleaved memory has nodes that it may be on; a wish binds not."""
    found = parse_numa_maps(NUMA_MAPS)
    expected = {0x7F0001000: "1", 0x7F0006000: "0,2", 0x7F0007000: "0-3"}
    assert expected == found.bound
    assert frozenset({0x7F0002000}) == found.hugetlb
    starts = [line.split()[0] for line in NUMA_MAPS.splitlines()]
    assert {int(start, 16) >> 12 for start in starts} == found.known


def test_locks_are_read_from_flags() -> None:
    """``lo`` as a word of VmFlags, for the mapping whose lines it is among."""
    smaps = (
        b"7f0000400000-7f0000800000 rw-p 00000000 00:00 0 \nSize: 4096 kB\n"
        b"VmFlags: rd wr mr mw me lo ac \n"
        b"7f0000800000-7f0000900000 rw-p 00000000 00:00 0 [lo]\nVmFlags: rd wr\n"
    )
    assert [[0x7F0000400, 0x7F0000800]] == parse_locked(smaps).tolist()
    assert 0 == len(parse_locked(b""))

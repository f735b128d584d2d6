"""Page tables in bulk: entries to nodes, scans, frames of this host."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isotherm.core.errors import UnsupportedError
from isotherm.core.kernels import TWINS
from isotherm.machine.linux import pagemap
from isotherm.machine.linux.pagemap import FRAME, PRESENT, SWAPPED, FrameNodes
from isotherm.machine.linux.process import Process
from isotherm.machine.protocol import NOT_PRESENT


def write_blocks(root: Path, nodes: dict[int, list[int]]) -> None:
    """Write memory blocks of 128 MiB (32768 frames), by node."""
    memory = root / "sys/devices/system/memory"
    memory.mkdir(parents=True)
    (memory / "block_size_bytes").write_text("8000000\n")
    for node, blocks in nodes.items():
        for block in blocks:
            (root / f"sys/devices/system/node/node{node}/memory{block}").mkdir(
                parents=True
            )


def entries(*values: int) -> np.ndarray:
    """Return pagemap entries, uint64."""
    return np.array(values, np.uint64)


def test_a_frame_is_on_the_node_of_its_block(tmp_path: Path) -> None:
    """One that two nodes share, and one beyond all blocks, is on none that is known."""
    write_blocks(tmp_path, {0: [0, 1, 2], 1: [2, 3], 7: [40]})
    frames = FrameNodes(tmp_path)
    assert 32768 == frames.block_frames
    frame = [1, 32768, 2 * 32768, 3 * 32768 + 5, 4 * 32768, 40 * 32768, 1 << 40]
    unknown = FrameNodes.UNKNOWN
    expected = [0, 0, unknown, 1, unknown, 7, unknown]
    assert expected == frames.nodes(entries(*frame)).tolist()


def test_entries_become_nodes(tmp_path: Path) -> None:
    """Present, absent, swapped out, hidden, and what only looks swapped out."""
    write_blocks(tmp_path, {0: [0], 1: [1]})
    frames = FrameNodes(tmp_path)
    present, swapped = int(PRESENT), int(SWAPPED)
    rows = entries(
        present | 77, present | 32768 + 9, 0, present, swapped | 5 << 5 | 1,
        swapped | 77 << 5 | 27,
    )  # fmt: skip
    none, unknown = NOT_PRESENT, FrameNodes.UNKNOWN
    assert [0, 1, none, unknown, none, none] == frames.placement(rows).tolist()
    assert [0, 1, none, unknown, 4, none] == frames.placement(rows, 4).tolist()


def test_a_tree_without_blocks_is_unsupported(tmp_path: Path) -> None:
    """It is said what was looked for."""
    with pytest.raises(UnsupportedError, match="memory"):
        FrameNodes(tmp_path)
    write_blocks(tmp_path, {})
    (tmp_path / "sys/devices/system/node/node0").mkdir(parents=True)
    with pytest.raises(UnsupportedError, match="no memory block"):
        FrameNodes(tmp_path)


@given(
    hnp.arrays(np.uint64, st.integers(0, 50), elements=st.integers(0, 2**64 - 1)),
    st.integers(0, 3),
    st.sampled_from([4, 255]),
)
def test_kernel_and_twin_agree(rows: np.ndarray, zero: int, swap: int) -> None:
    """Whatever the entries hold, both write the same nodes."""
    rows[::2] &= np.uint64(0xE00000000000FFFF)
    nodes = np.array([0, 1, 254, 2, 254], np.uint8)
    name = "isotherm.machine.linux.pagemap.nodes_of_entries"
    twin = pagemap._nodes_of_entries_numpy
    found = []
    for function in TWINS.get(name, (twin, twin)):
        out = np.zeros(len(rows), np.uint8)
        function(rows, nodes, 13, zero, swap, out)
        found.append(out.tolist())
    assert found[0] == found[1]


def test_every_page_of_a_process_is_found(child: Any) -> None:
    """Touched pages are on nodes of this host, others are nowhere."""
    if not pagemap.frames_visible():
        pytest.skip("frames are hidden from us: needs CAP_SYS_ADMIN")
    try:
        frames = FrameNodes()
    except UnsupportedError as error:
        pytest.skip(str(error))
    page = child.do("take(40)")
    child.do(f"libc.madvise(ctypes.c_long({page + 8} << 12), 4096, 4)")  # DONTNEED
    child.do(f"kept.append(ctypes.string_at(({page} + 8) << 12, 1))")
    with Process(child.pid) as process:
        node = frames.placement(process.pagemap(page, page + 40))
    assert NOT_PRESENT == node[8], "the page of zeros is no memory"
    names = os.listdir("/sys/devices/system/node")  # noqa: PTH208  # names
    there = {int(name[4:]) for name in names if name[4:].isdigit()}
    assert set(np.delete(node, 8).tolist()) <= there


def test_scans_find_runs(child: Any) -> None:
    """Pages that are there, as runs, however many, and only in the range."""
    if not pagemap.can_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN (Linux 6.7)")
    page = child.do("take(20000, fill=False)")
    code = "[ctypes.memset(({0} + i) << 12, 1, 1) and None for i in range(0, {1}, 2)]"
    child.do(f"libc.madvise(ctypes.c_long({page} << 12), 20000 << 12, 15)")
    child.do(f"len({code.format(page, 20000)})")
    with Process(child.pid) as process:
        found = pagemap.scan(
            process.pagemap_fd(), page, page + 19001, any_of=pagemap.PAGE_IS_PRESENT
        )
    assert 0 == found.error
    start = np.arange(page, page + 19001, 2)
    assert start.tolist() == found.regions[:, 0].tolist()
    assert (found.regions[:, 1] == start + 1).all()


def test_flags_of_frames() -> None:
    """A frame of ours has flags and is not broken; beyond the last there are none."""
    memory = np.ones(4096, np.uint8)
    with Process(os.getpid()) as process:
        page = memory.ctypes.data // 4096 + 0
        entry = process.pagemap(page, page + 1)
    frame = entry & FRAME
    if not frame[0]:
        pytest.skip("frames are hidden from us: needs CAP_SYS_ADMIN")
    flags = pagemap.read_page_flags(np.array([frame[0], 1 << 50], np.uint64))
    assert flags is not None
    assert 0 == int(flags[0]) >> pagemap.KPF_HWPOISON & 1
    assert int(flags[0]) != 0
    assert 0 == int(flags[1])

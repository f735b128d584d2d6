"""The truth reader: shares by hand, placement from a made-up machine."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TargetGoneError, UsageError
from isotherm.workloads.native.layout import State, create_truth, open_truth
from isotherm.workloads.native.memory import Buffer, query_nodes
from isotherm.workloads.native.process import start_ticks
from isotherm.workloads.native.truth import (
    ABSENT,
    TruthReader,
    best_share,
    room_above_high,
)

PRESENT = 1 << 63


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """Return a root in which page i of this process lies in frame 100 + i.

    Blocks of 32 MiB: frames below 8192 are node 0's, the next node 1's.
    """
    node = tmp_path / "sys/devices/system/node"
    for name in ("node0/memory0", "node1/memory1"):
        (node / name).mkdir(parents=True)
    sizes = tmp_path / "sys/devices/system/memory"
    sizes.mkdir()
    (sizes / "block_size_bytes").write_text("2000000\n")
    (tmp_path / "proc" / str(os.getpid())).mkdir(parents=True)
    return tmp_path


def write_frames(root: Path, frames: list[int]) -> None:
    """Say in which frames pages 0, 1... are; 0: not present."""
    entries = np.array([PRESENT | f if f else 0 for f in frames], np.uint64)
    (root / f"proc/{os.getpid()}/pagemap").write_bytes(entries.tobytes())


def test_share_equals_a_hand_count(made_up: Path, tmp_path: Path) -> None:
    """Each page's accesses go to its node; a page that moved is told as doubt."""
    path = tmp_path / "truth"
    with create_truth(path, 5, 2) as file:
        file.set(pid=os.getpid(), start_ticks=start_ticks("self"), address=0)
        reader = TruthReader(path, (0,), made_up)
        write_frames(made_up, [1, 8192, 8193, 3, 0])
        before = reader.snapshot()
        assert [0, 1, 1, 0, ABSENT] == before.node.tolist()
        file.counts[0] += np.array([40, 20, 5, 3, 0], np.uint64)
        file.counts[1] += np.array([10, 10, 5, 7, 0], np.uint64)
        write_frames(made_up, [1, 2, 8193, 8199, 0])  # 1 came up, 3 went down
        window = reader.window(before, reader.snapshot(), 2)
        reader.close()
    assert 100 == window.accesses
    assert 0.5 == window.fast_share_low  # page 0
    assert 0.9 == window.fast_share_high  # and pages 1 and 3 in doubt
    assert pytest.approx(0.7) == window.fast_share
    assert 0.8 == window.best_share  # pages 0 and 1
    assert (2, 1, 2) == (window.fast_pages, window.absent_pages, window.changed_pages)


def test_best_share_judges_the_phase_alone(made_up: Path, tmp_path: Path) -> None:
    """After a shift the best placement is that of what is hot now."""
    path = tmp_path / "truth"
    with create_truth(path, 2, 1) as file:
        file.set(pid=os.getpid(), start_ticks=start_ticks("self"), address=0)
        write_frames(made_up, [1, 2])
        reader = TruthReader(path, (0,), made_up)
        file.counts[0] += np.array([100, 0], np.uint64)
        reader.snapshot()
        file.set(phase=1)
        before = reader.snapshot()
        file.counts[0] += np.array([1, 9], np.uint64)
        window = reader.window(before, reader.snapshot(), 1)
        reader.close()
    assert 0.9 == window.best_share


@pytest.mark.parametrize(
    ("capacity", "expected"), [(0, 0.0), (1, 0.5), (3, 0.9), (9, 1.0)]
)
def test_best_share_is_the_share_of_the_hottest(capacity: int, expected: float) -> None:
    """The hottest pages that fit, no more."""
    assert expected == best_share(np.array([3, 5, 1, 1]), capacity)


def test_free_pages_above_the_high_watermark_are_room(tmp_path: Path) -> None:
    """Zones of the node add up; a zone below its watermark gives nothing."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/zoneinfo").write_text(
        "Node 0, zone      DMA\n  pages free     10\n        high     20\n"
        "Node 0, zone    DMA32\n  pages free     500\n        high     100\n"
        "Node 1, zone   Normal\n  pages free     999\n        high     1\n"
    )
    assert 400 == room_above_high(tmp_path, 0)


def test_the_file_appears_complete(tmp_path: Path) -> None:
    """Whoever sees the name sees the whole header; nothing else is left behind."""
    path = tmp_path / "truth"
    with create_truth(path, 3, 1, pid=7, address=4096, workload=b"gups"):
        assert [path] == list(tmp_path.iterdir())
        file = open_truth(path)
        assert (7, 4096, 3) == tuple(map(file.get, ("pid", "address", "pages")))
        file.close()
    folder = tmp_path / "folder"
    (folder / "x").mkdir(parents=True)
    with pytest.raises(UsageError), create_truth(folder, 3, 1):
        pass
    assert {path, folder} == set(tmp_path.iterdir())


def test_a_recycled_pid_is_not_the_workload(made_up: Path, tmp_path: Path) -> None:
    """The start time tells: the reader says that the workload has gone."""
    path = tmp_path / "truth"
    with create_truth(path, 1, 1) as file:
        file.set(pid=os.getpid(), start_ticks=start_ticks("self") + 1)
        reader = TruthReader(path, (0,), made_up)
        with pytest.raises(TargetGoneError, match="has ended"):
            reader.snapshot()
        reader.close()


@pytest.mark.parametrize("content", [b"", b"x" * 9000])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Neither an empty nor a foreign file is read as truth."""
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        open_truth(path)


def test_move_pages_and_pagemap_agree() -> None:
    """The kernel's two answers about this process's memory are one."""
    buffer = Buffer(64, "never")
    buffer.words[: 32 * 512 : 512] = 1
    said = query_nodes(0, buffer.address, 64)
    with Path("/proc/self/pagemap").open("rb", 0) as file:
        file.seek(buffer.address // 4096 * 8)
        entries = np.frombuffer(file.read(64 * 8), np.uint64)
    there = (entries & np.uint64(PRESENT)) != 0
    assert [True] * 32 + [False] * 32 == (said >= 0).tolist() == there.tolist()
    buffer.close()


def test_states_have_the_documented_numbers() -> None:
    """They are in files that others read."""
    assert [0, 1, 2, 3] == [int(state) for state in State]


def test_a_process_that_is_ending_is_gone() -> None:
    """It has a number still, and no memory: no such process, not a lack of rights."""
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        query_nodes(ended.pid, 0x10000, 1)
    ended.wait()

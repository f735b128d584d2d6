"""The frame map: how fast pagemap becomes a table from frame to page.

Figures are CPU time of the thread, the least of several runs. Synthesised entries
first, with frames in runs of several lengths; then, as root, this process's own
memory through /proc. ``--publish`` puts the tables into docs/measurements.md.
"""

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from isotherm.hints.live.frame_map import FrameMap
from isotherm.machine.linux.process import Process
from isotherm.machine.linux.spaces import SpaceMap
from publish import markdown, processor, publish

PAGES = 1 << 22
LIVE_PAGES = 1 << 17
LOOKUPS = 1 << 20
REPEATS = 5
PRESENT = np.uint64(1 << 63)
RUNS = {"512 pages": 512, "16 pages": 16, "single pages": 1}


def least_s(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least CPU time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - began) / 1e9)
    return min(times)


def synthesised(run: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Return entries of pages on frames in runs of so many, in random order."""
    start = rng.permutation(2 * PAGES // run)[: PAGES // run].astype(np.uint64)
    frame = start[:, None] * np.uint64(run) + np.arange(run, dtype=np.uint64)
    entry: NDArray[np.uint64] = (frame.ravel() + np.uint64(1)).astype(np.uint64)
    entry |= PRESENT
    return entry


def measure(run: int) -> list[float]:
    """Return million pages per second: made, nothing changed, 1 % changed, found."""
    rng = np.random.default_rng(1)
    held = [synthesised(run, rng)]
    spaces = SpaceMap()
    spaces.update(1, np.array([[0, PAGES]]))

    def read(_: int, start: int, end: int) -> NDArray[np.uint64]:
        return held[0][start:end]

    def make() -> FrameMap:
        frames = FrameMap(spaces, read)
        frames.flat_pages(np.zeros(1, np.uint64))
        frames.refresh(PAGES)
        return frames

    frames = make()
    size = frames.nbytes / PAGES
    new = PAGES / least_s(make, 3) / 1e6
    same = PAGES / least_s(lambda: frames.refresh(PAGES)) / 1e6
    moved = held[0].copy()
    few = rng.choice(PAGES, PAGES // 100, replace=False)
    moved[few] = (rng.permutation(few).astype(np.uint64) + np.uint64(3 * PAGES)) | (
        PRESENT
    )
    both = [held[0], moved]

    def change() -> None:
        both.reverse()
        held[0] = both[0]
        frames.refresh(PAGES)

    some = PAGES / least_s(change) / 1e6
    asked = rng.integers(0, 2 * PAGES, LOOKUPS).astype(np.uint64)
    found = LOOKUPS / least_s(lambda: frames.flat_pages(asked)) / 1e6
    return [new, same, some, found, size]


def live() -> list[list[str]]:
    """Return rows of this process's own memory: read alone, made, kept up."""
    memory = mmap.mmap(-1, LIVE_PAGES * 4096)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view = np.frombuffer(memory, np.uint8)
    view[::4096] = 1
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) >> 12
    process = Process(os.getpid())
    into = np.zeros(1 << 15, np.uint64)

    def read() -> None:
        for at in range(0, LIVE_PAGES, len(into)):
            process.read_pagemap(first + at, into)

    spaces = SpaceMap()
    spaces.update(os.getpid(), np.array([[first, first + LIVE_PAGES]]))
    frames = FrameMap(spaces)

    def make() -> FrameMap:
        made = FrameMap(spaces)
        made.flat_pages(np.zeros(1, np.uint64))
        made.refresh(spaces.pages)
        return made

    frames = make()
    share = LIVE_PAGES / spaces.pages
    figures = {
        "reading pagemap alone": LIVE_PAGES / least_s(read, 9),
        "map made anew": share * spaces.pages / least_s(make, 9),
        "kept up, nothing changed": LIVE_PAGES
        / least_s(lambda: frames.refresh(spaces.pages), 9),
    }
    mine = frames.frames(0, spaces.pages)
    mine = mine[mine > 0]
    if len(mine) < LIVE_PAGES:
        raise SystemExit(f"{frames.counts}: this process may not see frames")
    found = np.count_nonzero(frames.flat_pages(mine.astype(np.uint64)) != 0xFFFFFFFF)
    rows = [[name, f"{rate / 1e6:.1f}"] for name, rate in figures.items()]
    rows.append(["bytes a page", f"{frames.nbytes / spaces.pages:.1f}"])
    rows.append(["of its frames found again", f"{found / len(mine):.1%}"])
    return rows


def main() -> None:
    """Print, and publish where that is asked for."""
    header = ["frames in runs of", "made", "kept up", "1 % moved", "looked up", "B"]
    measure(512)  # compiles
    rows = []
    for name, run in RUNS.items():
        *rates, size = measure(run)
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{size:.1f}"])
    text = (
        f"{processor()}, one core, {PAGES >> 20} Mi pages; million pages (frames that"
        " are looked up) per second of CPU time, bytes a page.\n\n"
        + markdown(header, rows)
    )
    if os.geteuid() == 0:
        text += (
            f"\n\nThis process's own {LIVE_PAGES >> 8} MiB of small pages through"
            " /proc, million pages per second of CPU time:\n\n"
            + markdown(["live", ""], live())
        )
    else:
        sys.stderr.write("not root: frames of live memory are hidden\n")
    sys.stdout.write(text + "\n")
    if "--publish" in sys.argv:
        publish("frame-map", text)


if __name__ == "__main__":
    main()

"""Hot lists of CXL hotness units: how fast they become units, and ranges of pages.

Bar: 50 M entries/s decoded from AUX packets. Copying the same bytes stands beside
it: memory is the limit that nothing passes. CPU time of this thread, the best and
the median of the runs, each the median of several rounds, on buffers that fit an AUX
ring of 16 MiB. ``--publish`` puts
the table into docs/reference/chmu.md.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from isotherm.core.units import PAGE_BYTES
from isotherm.hints.chmu_ranges import Listed, to_ranges
from isotherm.hints.interleave import Window
from isotherm.records.cxl_hmu import decode_stream, packets
from isotherm.records.cxl_hmu_text import decode_text
from publish import markdown, processor, publish

BAR: Final = 50e6  # entries a second
ENTRIES: Final = 1 << 17  # 1 MiB: what a quick drain leaves in the ring
UNITS: Final = 1 << 24  # 64 GiB of pages
WIDTH: Final = 16
RUNS: Final = 40
ROUNDS: Final = 5
DECODE: Final = "packets to units and counts"
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference" / "chmu.md"


class Table:
    """Frames follow pages."""

    def frames(self, first: int, last: int) -> np.ndarray:
        """Return the frames of flat pages."""
        return np.arange(first, last, dtype=np.uint32)

    def flat_pages(self, frame: np.ndarray) -> np.ndarray:
        """Return the page on each frame."""
        return frame.astype(np.uint32)


def rates(work: Callable[[], object], entries: int) -> tuple[float, float]:
    """Return the best and the median entries a second of CPU time."""
    work()
    spent = []
    for _ in range(RUNS):
        began = time.thread_time_ns()
        work()
        spent.append(time.thread_time_ns() - began)
    return entries / min(spent) * 1e9, entries / float(np.median(spent)) * 1e9


def main() -> int:
    """Measure, print, and publish where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    unit = rng.integers(0, UNITS, ENTRIES).astype(np.uint64)
    count = rng.integers(1, 1 << WIDTH, ENTRIES).astype(np.uint64)
    words = packets(unit << np.uint64(WIDTH) | count, WIDTH, 1023)
    stream = words.view(np.uint8)
    copied = np.empty_like(words)

    found = decode_stream(stream, WIDTH)
    assert len(found) == ENTRIES  # noqa: S101  # what is measured is right
    assert (found.unit == unit).all()  # noqa: S101
    few = words[: 1025 * 8]
    text = b". ... CXL_HMU data: size %d bytes\n" % few.nbytes
    for start in range(0, len(few), 1025):
        text += b"Header 0: units: 3ff counter_width 10\nHeader 1 : deadbeef\n"
        text += b"".join(b"%016x\n" % int(w) for w in few[start + 2 : start + 1025])
    window = Window(0, UNITS * PAGE_BYTES)
    listed = [Listed(window, found.unit, found.count, complete=True)]
    table = Table()

    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "copy of the same bytes": (lambda: np.copyto(copied, words), ENTRIES),
        DECODE: (lambda: decode_stream(stream, WIDTH), ENTRIES),
        "text of `perf report -D`": (lambda: decode_text(text, WIDTH), 1023 * 8),
        "units to ranges of pages": (
            lambda: to_ranges(listed, 12, table, merge=True),
            ENTRIES,
        ),
    }
    rounds = [[rates(*job) for job in jobs.values()] for _ in range(ROUNDS)]
    best, median = np.median(np.array(rounds), axis=0).T / 1e6
    shares = [[job[0] / one[0][0] for job in one] for one in rounds]
    share = np.median(np.array(shares), axis=0)
    rows = [
        [name, f"{best[i]:.1f}", f"{median[i]:.1f}", f"{share[i]:.3f}"]
        for i, name in enumerate(jobs)
    ]
    header = ["hot list", "best, M entries/s", "median", "of a copy"]
    note = f"\n\n{processor()}, one thread, {ENTRIES} entries a drain, {RUNS} runs,"
    note += f" the median of {ROUNDS} rounds."
    text_out = markdown(header, rows) + note
    print(text_out)
    if args.publish:
        publish("bench-chmu", text_out, PAGE)
    decoded = best[list(jobs).index(DECODE)]
    if decoded < BAR / 1e6:
        print(f"missed: {decoded:.1f} M entries/s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How well the policy of a tiered tensor chooses, without a GPU.

    python benchmarks/gpu_policy.py [--scale full|small] [--neighbours 1] [--json FILE]

Plays bounded Zipf batches on a tensor of the numpy backend, with the protocol, the
tracker, the policy and the migration engine that a device gets, one epoch a batch, and
changes what is hot half way. Beside it stand-ins for the caches that others use: LRU
and LFU of 32 ways, filled on every miss, by sets. The oracle knows the true rates and
holds the hottest pages, before and after the change.

Figures are hit rates over the oracle's, and batches from the change until the mean of
five batches has been back at 90 % and 95 % of the new oracle's.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry
from isotherm.gpu.machine import (
    ASSUMED_HBM_BYTES_S,
    ASSUMED_HOST_BYTES_S,
    TensorMachine,
)
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import SlotProtocol
from isotherm.gpu.tiering import Tiering

WAYS = 32
ROW_BYTES = 512  # what a row counts for; the arena here holds one byte of each
BATCHES, CHANGE = 300, 150
MEAN_OF = 5


@dataclass(frozen=True)
class Case:
    """One stream of batches.

    Attributes:
        rows: Rows of the table.
        batch: Rows read in a batch.
        skew: Exponent of the Zipf distribution.
        change: ``all``, ``quarter`` of the rows change their rank; ``drift``: a
            thousandth in every batch from the change on.
        scan: Every tenth batch reads rows at random.
        seed: For everything.
    """

    rows: int
    batch: int
    skew: float
    change: str = "all"
    scan: bool = False
    seed: int = 1

    @property
    def slots(self) -> int:
        """A tenth of the rows."""
        return self.rows // 10

    def shares(self) -> NDArray[np.float64]:
        """Return the share of the reads of each rank, exact."""
        weight = 1.0 / np.arange(1, self.rows + 1) ** self.skew
        share: NDArray[np.float64] = weight / weight.sum()
        return share

    def batches(self) -> Iterator[tuple[int, NDArray[np.int64], bool]]:
        """Yield number, rows and whether it is a scan, of each batch."""
        random = np.random.default_rng(self.seed)
        upto = np.cumsum(self.shares())
        row = random.permutation(self.rows)
        for number in range(BATCHES):
            if number == CHANGE and self.change in {"all", "quarter"}:
                share = 1.0 if self.change == "all" else 0.25
                row = shuffled(row, share, random)
            if number >= CHANGE and self.change == "drift":
                row = shuffled(row, 0.001, random)
            if self.scan and number % 10 == 9:
                yield number, random.integers(0, self.rows, self.batch), True
                continue
            rank = np.searchsorted(upto, random.random(self.batch) * upto[-1])
            yield number, row[np.minimum(rank, self.rows - 1)], False


def shuffled(
    row: NDArray[np.int64], share: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows by rank with a share of them in other places."""
    at = np.flatnonzero(random.random(len(row)) < share)
    out = row.copy()
    out[at] = row[random.permutation(at)]
    return out


@dataclass
class Result:
    """What came of a case."""

    who: str
    skew: float
    change: str
    scan: bool
    before: float
    end: float
    batches_to_90: int | None
    batches_to_95: int | None
    moved_over_slots: float
    ms_per_batch: float


def judge(
    who: str, case: Case, rates: list[float], moved: int, wall_s: float
) -> Result:
    """Return the figures of one run; scans are left out of them."""
    oracle = float(np.sort(case.shares())[::-1][: case.slots].sum())
    rate = np.array(rates) / oracle
    usual = np.ones(BATCHES, np.bool_)
    if case.scan:
        usual[9::10] = False
    before = rate[CHANGE - 20 : CHANGE][usual[CHANGE - 20 : CHANGE]]
    end = rate[-20:][usual[-20:]]
    after = rate[CHANGE:][usual[CHANGE:]]
    mean = np.convolve(after, np.ones(MEAN_OF) / MEAN_OF, "valid")

    def first(level: float) -> int | None:
        found = np.flatnonzero(mean >= level)
        return int(found[0]) if len(found) else None

    return Result(
        who,
        case.skew,
        case.change,
        case.scan,
        round(float(before.mean()), 4),
        round(float(end.mean()), 4),
        first(0.90),
        first(0.95),
        round(moved / case.slots, 2),
        round(wall_s / BATCHES * 1e3, 1),
    )


def play_isotherm(case: Case, hit_shift: int = 0, neighbours: float = 0.0) -> Result:
    """Play a case on a tensor."""
    geometry = Geometry(case.rows, 1, "uint8", 1, case.slots)
    host = np.zeros((case.rows, geometry.page_bytes), np.uint8)
    device = numpy_backend.create(geometry, host)
    protocol = SlotProtocol(case.rows, case.slots)
    mover = Mover(device, protocol, hit_shift=hit_shift, deterministic=True)
    # A row of one byte stands for one of 512; a page is a row.
    machine = TensorMachine(
        mover,
        "table",
        ASSUMED_HBM_BYTES_S / ROW_BYTES,
        ASSUMED_HOST_BYTES_S / ROW_BYTES,
        page_bytes=1,
    )
    options = {"neighbours": neighbours}
    tiering = Tiering(mover, machine, options=options, seed=case.seed)
    out = device.empty((case.batch, 1))
    rates: list[float] = []
    hits = 0
    wall_s = 0.0
    for _, row, _ in case.batches():
        began = time.perf_counter()
        mover.launch(partial(device.gather, row, out))
        mover.pump()
        tiering.step()
        mover.pump()
        wall_s += time.perf_counter() - began
        rates.append((tiering.counters.hits - hits) / case.batch)
        hits = tiering.counters.hits
    moved = protocol.totals.deposited + protocol.totals.copied
    name = "isotherm" if hit_shift == 0 else f"isotherm p=1/{1 << hit_shift}"
    return judge(name, case, rates, moved, wall_s)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def through_cache(
    row: NDArray[np.int64],
    stamp: int,
    page: NDArray[np.int64],
    score: NDArray[np.int64],
    by_count: bool,
    count: NDArray[np.int64],
) -> tuple[int, int]:
    """Look up a batch in a cache of sets; then put its misses in.

    Args:
        row: Rows read.
        stamp: Number of the batch: the score of LRU.
        page: Row in each way, or -1, [sets, ways].
        score: Of each way; the lowest goes.
        by_count: LFU: the score is how often a row was read so far.
        count: Reads of each row so far, changed.

    Returns:
        Hits, and rows put in.
    """
    sets, ways = page.shape
    hits = put = 0
    for i in range(row.size):
        r = row[i]
        count[r] += 1
        s = (r * 2654435761) % 4294967296 % sets
        for w in range(ways):
            if page[s, w] == r:
                hits += 1
                score[s, w] = count[r] if by_count else stamp
                break
    for i in range(row.size):
        r = row[i]
        s = (r * 2654435761) % 4294967296 % sets
        low = 0
        there = False
        for w in range(ways):
            if page[s, w] == r:
                there = True
                break
            if score[s, w] < score[s, low]:
                low = w
        if there:
            continue
        mine = count[r] if by_count else stamp
        if mine <= score[s, low]:  # full of rows of this batch, or of hotter ones
            continue
        page[s, low] = r
        score[s, low] = mine
        put += 1
    return hits, put


def play_cache(case: Case, *, by_count: bool) -> Result:
    """Play a case on a cache of 32 ways."""
    sets = case.slots // WAYS
    page = np.full((sets, WAYS), -1, np.int64)
    score = np.full((sets, WAYS), -1, np.int64)
    count = np.zeros(case.rows, np.int64)
    rates: list[float] = []
    moved = 0
    wall_s = 0.0
    for number, row, _ in case.batches():
        began = time.perf_counter()
        hits, put = through_cache(row, number, page, score, by_count, count)
        wall_s += time.perf_counter() - began
        rates.append(hits / case.batch)
        moved += put
    return judge("lfu-32" if by_count else "lru-32", case, rates, moved, wall_s)


def cases(scale: str) -> list[Case]:
    """Return the cases of a scale."""
    rows, batch = (1 << 20, 1 << 17) if scale == "full" else (1 << 17, 1 << 14)
    skews = (0.99, 1.05, 1.2)
    found = [Case(rows, batch, skew) for skew in skews]
    found += [Case(rows, batch, 1.05, "quarter"), Case(rows, batch, 1.05, "drift")]
    found += [Case(rows, batch, 1.05, scan=True), Case(rows, batch, 1.05, seed=2)]
    return found


def main() -> None:
    """Play every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--neighbours", type=float, default=0.0, help="1: regions count, as for memory"
    )
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    print(
        f"{'':17}{'skew':>5} {'change':>8} {'scan':>5} {'before':>7} {'end':>7}"
        f" {'to 90%':>7} {'to 95%':>7} {'moved/S':>8} {'ms/batch':>9}"
    )
    for case in cases(given.scale):
        for result in (
            play_isotherm(case, 0, given.neighbours),
            play_isotherm(case, 4, given.neighbours),
            play_cache(case, by_count=False),
            play_cache(case, by_count=True),
        ):
            results.append(asdict(result) | {"rows": case.rows, "batch": case.batch})
            to_90 = "never" if result.batches_to_90 is None else result.batches_to_90
            to_95 = "never" if result.batches_to_95 is None else result.batches_to_95
            print(
                f"{result.who:17}{result.skew:5} {result.change:>8}"
                f" {'yes' if result.scan else 'no':>5} {result.before:7.4f}"
                f" {result.end:7.4f} {to_90:>7} {to_95:>7}"
                f" {result.moved_over_slots:8.2f} {result.ms_per_batch:9.1f}",
                flush=True,
            )
            if given.json is not None:
                given.json.write_text(json.dumps({"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

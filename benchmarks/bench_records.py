"""How fast records of sampled accesses are decoded, on one core.

Bars: 20 million fixed-size records a second (the 80 bytes of a memory sample), 10
million mixed ones (samples of changing length among other records). A virtual
machine's speed changes from minute to minute, so each rate also stands beside the
speed at which the same run copies memory: a decoder that needs more of it has
become slower, whatever the day. ``--publish`` puts the table into
docs/measurements.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from isotherm.records.hca import decode_hca
from isotherm.records.perf_fields import Field, SampleLayout, Shape
from isotherm.records.perf_ring import decode_ring
from isotherm.records.spe import decode_spe
from publish import markdown, processor, publish

MEMORY: Final = (
    Field.IP
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.WEIGHT_STRUCT
    | Field.DATA_SRC
    | Field.PHYS_ADDR
)
FAULT: Final = Field.TID | Field.TIME | Field.ADDR | Field.CPU
#: Records a stretch: 4 MiB of samples, what a ring of that size holds.
COUNT: Final = 50_000
_SAMPLE, _LOST, _COMM, _FORK = 9, 13, 3, 7


@dataclass(frozen=True)
class Rate:
    """One decoder's speed.

    Attributes:
        name: What was decoded.
        records_s: Records a second, the best of the runs.
        median_s: The median of the runs.
        bytes_each: Bytes a record, on average.
        copy_share: Bytes a second over those that copying the same bytes makes.
        bar: Records a second that are wanted; 0: none.
    """

    name: str
    records_s: float
    median_s: float
    bytes_each: float
    copy_share: float
    bar: float = 0.0


def record(kind: int, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a record with its header, in words."""
    head = np.uint64(kind | 2 << 32 | (8 * (1 + len(words))) << 48)
    return np.concatenate([np.array([head], np.uint64), words])


def fixed(fields: Field) -> NDArray[np.uint64]:
    """Return samples of one size."""
    layout = SampleLayout.of(fields)
    rng = np.random.default_rng(1)
    table = rng.integers(0, 1 << 47, (COUNT, layout.words), np.uint64)
    table[:, 0] = np.uint64(_SAMPLE | 2 << 32 | (8 * layout.words) << 48)
    return table.ravel()


def mixed() -> NDArray[np.uint64]:
    """Return samples with call chains of 0 to 7 places, and other records between."""
    rng = np.random.default_rng(2)
    parts = []
    depths = rng.integers(0, 8, COUNT)
    others = rng.integers(0, 20, COUNT)
    body = rng.integers(0, 1 << 47, 24, np.uint64)
    for depth, other in zip(depths.tolist(), others.tolist(), strict=True):
        chain = np.concatenate([np.array([depth], np.uint64), body[:depth]])
        parts.append(record(_SAMPLE, np.concatenate([body[:6], chain, body[:3]])))
        if other == 0:
            parts.append(record(_LOST, np.array([3], np.uint64)))
        elif other == 1:
            parts.append(record(_COMM, body[:4]))
        elif other == 2:
            parts.append(record(_FORK, body[:5]))
    return np.concatenate(parts)


def varied() -> NDArray[np.uint64]:
    """Return samples of one size, one record in ten of another kind and size."""
    rng = np.random.default_rng(3)
    one = fixed(MEMORY).reshape(COUNT, -1)
    other = rng.integers(0, 10, COUNT)
    parts = []
    for row, kind in zip(one, other.tolist(), strict=True):
        parts.append(row)
        if kind == 0:
            parts.append(record(_COMM, row[1:5]))
    return np.concatenate(parts)


def spe() -> NDArray[np.uint8]:
    """Return records of 64 bytes as a Neoverse core writes them."""
    rng = np.random.default_rng(4)
    one = np.frombuffer(
        b"\xb0" + bytes(8) + b"\x49\x00" + b"\x98\x2c\x01" + b"\x99\x14\x00"
        b"\x62\x0a\x02\x00\x00" + b"\xb2" + bytes(8) + b"\x9a\x05\x00"
        b"\xb3" + bytes(8) + b"\x43\x0e" + b"\x71" + bytes(8),
        np.uint8,
    )
    table = np.zeros((COUNT, 64), np.uint8)
    table[:, : len(one)] = one
    for at in (22, 34):  # behind the headers of the two data addresses
        table[:, at + 1 : at + 6] = rng.integers(0, 256, (COUNT, 5), np.uint8)
    return table.ravel()


def best(job: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the least and the median of seconds of CPU time that a job takes."""
    job()  # compiled, and its memory there
    taken = []
    for _ in range(runs):
        began = time.thread_time()
        job()
        taken.append(time.thread_time() - began)
    return min(taken), float(np.median(taken))


def measure(runs: int) -> list[Rate]:
    """Return the rates of all decoders."""
    found = []
    calls = Shape()
    chains = SampleLayout.of(MEMORY | Field.CALLCHAIN, calls)
    memory, fault = SampleLayout.of(MEMORY), SampleLayout.of(FAULT)
    ring, faults, between, long = fixed(MEMORY), fixed(FAULT), varied(), mixed()
    area, table = spe(), ring.tobytes()
    jobs: list[tuple[str, NDArray[np.generic], int, Callable[[], object], float]] = [
        (
            "memory samples, 80 bytes",
            ring,
            COUNT,
            lambda: decode_ring(ring, memory),
            20e6,
        ),
        (
            "page faults, 40 bytes",
            faults,
            COUNT,
            lambda: decode_ring(faults, fault),
            20e6,
        ),
        (
            "mixed: a tenth of other kinds",
            between,
            _count(between),
            lambda: decode_ring(between, memory),
            10e6,
        ),
        (
            "mixed: call chains, lost, comm, fork",
            long,
            _count(long),
            lambda: decode_ring(long, chains),
            10e6,
        ),
        ("Arm SPE, 64 bytes", area, COUNT, lambda: decode_spe(area), 0.0),
        ("Power10 entries, 8 bytes", ring, len(ring), lambda: decode_hca(table), 0.0),
    ]
    for name, data, count, job, bar in jobs:
        room = np.empty_like(data)
        copy_s, _ = best(lambda d=data, r=room: np.copyto(r, d), runs)  # type: ignore[misc]
        least_s, median_s = best(job, runs)
        found.append(
            Rate(
                name,
                count / least_s,
                count / median_s,
                data.nbytes / count,
                copy_s / least_s,
                bar,
            )
        )
    return found


def middle(rounds: list[list[Rate]]) -> list[Rate]:
    """Return each decoder's median over rounds that were measured apart."""
    return [
        replace(
            same[0],
            records_s=float(np.median([r.records_s for r in same])),
            median_s=float(np.median([r.median_s for r in same])),
            copy_share=float(np.median([r.copy_share for r in same])),
        )
        for same in zip(*rounds, strict=True)
    ]


def _count(words: NDArray[np.uint64]) -> int:
    at, found = 0, 0
    while at < len(words):
        at += int(words[at]) >> 51
        found += 1
    return found


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--publish", action="store_true")
    given = parser.parse_args()
    rates = middle([measure(given.runs) for _ in range(given.rounds)])
    header = [
        "decoded",
        "M records/s",
        "median",
        "bytes each",
        "of a copy's speed",
        "bar",
    ]
    rows = [
        [
            r.name,
            f"{r.records_s / 1e6:.0f}",
            f"{r.median_s / 1e6:.0f}",
            f"{r.bytes_each:.0f}",
            f"{r.copy_share:.2f}",
            f"{r.bar / 1e6:.0f}" if r.bar else "",
        ]
        for r in rates
    ]
    text = (
        f"{processor()}, one core, CPU time: best and median of {given.runs} runs,"
        f" of which the median of {given.rounds} rounds.\n\n"
    )
    text += markdown(header, rows)
    if given.json:
        print(json.dumps([asdict(r) for r in rates], indent=1))
    else:
        print(text)
    if given.publish:
        publish("records", text)
    missed = [r.name for r in rates if r.records_s < r.bar]
    if missed:
        print(f"below the bar: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

"""Betweenness centrality over a graph in memory, as the GAP benchmarks have it (bc).

Objects, their sizes and who reads them when follow from the algorithm (Brandes) and
from what is stated of the graphs: 2^27 vertices, 2^31 edges, each kept in both
directions, so that neighbours take 17 GB and vectors of a value per vertex 0.5 to
1 GB. Graphs are born before the vectors. Counted are the lines that miss:

* forward, vertices come in the order of discovery, which is none: a vertex's entry in
  the index and its neighbours (32 of 4 bytes, two lines) are fetched from anywhere,
  and for every neighbour its depth; for each that lies a level deeper, its count of
  paths too;
* backward, neighbours are walked again; those marked as deeper cost their count of
  paths and their share of the score.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import numpy as np

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.lab.fidelity.play import ClosedLoop, Sample, play_one
from isotherm.machine.sim.spec import MachineSpec
from isotherm.trace.stream import AccessChunk, AccessStream, Pace

VERTICES: Final = 1 << 27
#: Of both directions.
NEIGHBOURS: Final = 1 << 32
LINE_BYTES: Final = 64
#: Last-level cache of a Xeon Silver 4114.
LLC_BYTES: Final = 13.75 * (1 << 20)
#: Of Graph500's Kronecker graphs: an edge's end goes to the heavier half, at every
#: level (A + B = A + C).
HEAVIER: Final = 0.57 + 0.19
EPOCH_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Object:
    """An array of the program.

    Attributes:
        name: Its name.
        size_bytes: Its size.
        forward: Lines of it that miss in the first half of a source.
        backward: In the second half.
    """

    name: str
    size_bytes: float
    forward: float
    backward: float


def betweenness(miss: float) -> tuple[Object, ...]:
    """Return the arrays of bc in the order in which they are first touched.

    Args:
        miss: Share of the reads at a neighbour's place in a vector that miss; what
            does not is of vertices that the last-level cache holds.
    """
    each, edge = float(VERTICES), float(NEIGHBOURS)
    deeper = edge * deeper_share()
    lines = 4 * edge / LINE_BYTES
    return (
        Object("index", 8 * each, each, each),
        Object("neighbours", 4 * edge, lines, lines),
        Object("scores", 4 * each, 0, each),
        Object("path counts", 8 * each, each + deeper * miss, each + deeper * miss),
        Object("depths", 4 * each, edge * miss, 0),
        Object("queue", 4 * each, 8 * each / LINE_BYTES, 4 * each / LINE_BYTES),
        Object("deeper", edge / 8, each, each),
        Object("deltas", 4 * each, 0, each + deeper * miss),
    )


def deeper_share() -> float:
    """Return the share of neighbours that lie a level deeper than their vertex.

    A uniform graph's levels, by branching: of n vertices that have not been seen,
    exp(-d f / N) are missed by the edges of f vertices of degree d.

    >>> round(deeper_share(), 3)
    0.178
    """
    degree = NEIGHBOURS / VERTICES
    level, unseen, deeper = 1.0, VERTICES - 1.0, 0.0
    while level >= 1:
        deeper += level * degree * unseen / VERTICES
        found = unseen * -np.expm1(-degree * level / VERTICES)
        unseen -= found
        level = found
    return float(deeper / NEIGHBOURS)


def kronecker_miss() -> float:
    """Return the share of reads at a neighbour's place that miss, Kronecker graph.

    A vertex whose number has k ones, before numbers are shuffled, is the end of an
    edge with probability 0.76^(27-k) 0.24^k. The cache holds a line for each of the
    heaviest.

    >>> round(kronecker_miss(), 2)
    0.58
    """
    levels = VERTICES.bit_length() - 1
    lines, hit = LLC_BYTES / LINE_BYTES, 0.0
    for ones in range(levels + 1):
        held = min(lines, math.comb(levels, ones))
        hit += held * HEAVIER ** (levels - ones) * (1 - HEAVIER) ** ones
        lines -= held
    return 1 - hit


@dataclass(slots=True)
class Traversal:
    """A program that goes through its arrays source after source.

    Attributes:
        name: For tables.
        pages: Footprint, simulated.
        objects: Its arrays.
        seed: For which pages of an array.
    """

    name: str
    pages: int
    objects: tuple[Object, ...]
    seed: int
    streams: tuple[AccessStream, ...] = field(init=False)
    stream_starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.streams = tuple(AccessStream(o.name) for o in self.objects)
        ends = np.cumsum([o.size_bytes for o in self.objects])
        starts = np.round(ends[:-1] / ends[-1] * self.pages).astype(int)
        self.stream_starts = (0, *starts.tolist())

    @property
    def gib(self) -> float:
        """What it stands for."""
        return sum(o.size_bytes for o in self.objects) / (1 << 30)

    @property
    def scale(self) -> float:
        """Pages simulated for one."""
        return self.pages * PAGE_BYTES / sum(o.size_bytes for o in self.objects)

    @property
    def source_accesses(self) -> float:
        """Simulated accesses of a source."""
        return sum(o.forward + o.backward for o in self.objects) * self.scale

    def epochs(self, pace: Pace) -> Iterator[AccessChunk]:
        """Yield a touch of every page, in the order of birth, and then the accesses."""
        rng = np.random.default_rng(self.seed)
        start = np.array(self.stream_starts)
        size = np.diff([*self.stream_starts, self.pages])
        lines = np.array([[o.forward, o.backward] for o in self.objects]).T
        halves = list(accumulate((lines.sum(1) * self.scale).tolist()))
        bounds = np.cumsum(lines / lines.sum(1, keepdims=True), axis=1)
        per_epoch = (pace.rate or 1.0) * self.pages * pace.epoch_ns / NS_PER_S
        left = pace.accesses or round(per_epoch * 240)
        touch = np.arange(self.pages)
        who = np.searchsorted(start, touch, side="right") - 1
        done, epoch = 0.0, 0
        while left > 0:
            count = int(per_epoch * (epoch + 1)) - int(per_epoch * epoch)
            count = min(count, left)
            backward = done % halves[1] >= halves[0]
            row = bounds[int(backward)]
            obj = np.minimum(np.searchsorted(row, rng.random(count)), len(row) - 1)
            page = start[obj] + (rng.random(count) * size[obj]).astype(np.int64)
            if epoch == 0:
                page, obj = np.concatenate([touch, page]), np.concatenate([who, obj])
            yield AccessChunk(page.astype(np.uint32), stream=obj.astype(np.uint8))
            left -= count
            done += count
            epoch += 1


def slowdown(
    program: Traversal,
    policy: str,
    machine: MachineSpec,
    sources: int,
    options: Mapping[str, float],
    *,
    memory_share: float,
    skip: int = 0,
    seed: int,
) -> float:
    """Return how much longer a run takes than with all memory fast.

    A closed loop: threads go on when their misses come back, and do not while they
    take faults and wait for moves.

    Args:
        program: What runs.
        policy: Name of a policy.
        machine: With threads and a parallelism.
        sources: How many the run has.
        options: The policy's.
        memory_share: Of the time with all memory fast, what is memory.
        skip: Sources before those, not counted.
        seed: For everything random.
    """
    threads = machine.threads or 1.0
    thread_ns = threads * program.scale * EPOCH_S * NS_PER_S

    fast_ns = machine.nodes[0].read_latency_ns[0] / machine.parallelism
    compute_ns = fast_ns * (1 / memory_share - 1)

    def per_epoch(last: Sample | None) -> int:
        if last is None:
            return int(thread_ns / (fast_ns + compute_ns))
        waits = last["application_ns"] + last["migration_ns"]
        # However much is moved, something is done.
        left = max(0.02 * thread_ns, thread_ns - waits)
        each = last["access_ns"] / last["accesses"] + compute_ns
        return int(left / each)

    work = program.source_accesses * (sources + skip)
    loop = ClosedLoop(program, per_epoch, work=round(work), name=program.name)
    rate = per_epoch(None) / EPOCH_S / program.pages
    watch = play_one(
        policy,
        loop,
        machine,
        fast_ratio=0.5,
        seed=seed,
        rate=rate,
        epoch_s=EPOCH_S,
        options=options,
    )
    done, counted = 0.0, []
    for sample in watch.samples:
        if done >= program.source_accesses * skip:
            counted.append(sample)
        done += sample["accesses"]
    parts = ("access_ns", "application_ns", "migration_ns")
    more = sum(s[part] for s in counted for part in parts)
    least = sum(s["all_fast_ns"] for s in counted)
    compute = compute_ns * sum(s["accesses"] for s in counted)
    return float((more + compute) / (least + compute))

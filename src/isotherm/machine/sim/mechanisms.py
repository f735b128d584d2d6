"""What hint drivers read of the simulated machine: each sees only its own view."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.machine.sim import play
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.poison import TICK_NS, FaultsTaken, poison_range
from isotherm.machine.sim.regions import CHECKS, SAMPLE_NS, Aggregation, RegionSampler
from isotherm.machine.sim.sampler import Sampled, Sampler

Bits = NDArray[np.uint8]
_WRAP_TICKS = 1 << 32


def _seconds_since(
    tick: NDArray[np.uint32], at_ns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the seconds from ticks to times, both since the table was opened.

    Times in the second half of the 119 hours that ticks tell apart are taken to
    lie before the tick, and give 0.
    """
    half = np.int64(_WRAP_TICKS // 2 * TICK_NS)
    gap_ns = (at_ns - tick.astype(np.int64) * TICK_NS + half) % (2 * half) - half
    gap_s: NDArray[np.float32] = (np.maximum(gap_ns, 0) / NS_PER_S).astype(np.float32)
    return gap_s


#: What an access takes that hits a cache: one of the first two levels.
HIT_NS = 4.0


class SimSampling:
    """A PMU that samples every period-th access.

    Where the workload's streams stall each in its own way, samples tell latency and
    stall as well: whether the access missed is drawn, a miss takes what its node
    takes, and holds its processor up for that over the misses in flight.
    """

    def __init__(
        self, machine: SimMachine, period: int, seed: int, loss: float
    ) -> None:
        self._machine = machine
        self._sampler = Sampler(period, seed, loss)
        self._rng = np.random.default_rng([seed, 0x57])
        machine.observers.append(self._sampler.observe)

    def now_ns(self) -> int:
        """Return the machine's time."""
        return self._machine.clock.now_ns()

    def drain_samples(self) -> Sampled:
        """Return the samples since the last call."""
        seen, load = self._sampler.drain(), self._machine.load
        if load.alike or seen.stream is None:
            return seen
        row = seen.stream
        missed = self._rng.random(len(row)) < load.miss_share[row]
        took = self._machine.miss_ns(seen.page, seen.write, load.initiator[row])
        return seen._replace(
            latency_ns=np.where(missed, took, HIT_NS).astype(np.float32),
            stall_ns=np.where(missed, took / load.parallelism[row], 0.0).astype(
                np.float32
            ),
        )

    def set_period(self, period: int) -> None:
        """Take one sample in ``period`` accesses from now on."""
        self._sampler.period = period


class SimPageTable:
    """Accessed bits and poisoned entries."""

    def __init__(self, machine: SimMachine, *, faults: bool, bits: bool) -> None:
        self._machine = machine
        if bits:
            machine.bits_wanted |= play.ACCESSED
        self._opened_ns = machine.clock.now_ns()
        self._since = np.zeros(machine.pages if faults else 0, np.uint32)  # ticks
        self._told = np.zeros_like(self._since)
        self._faults: list[FaultsTaken] = []
        if faults:
            machine.on_faults = self._take

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        return self._machine.pages

    def now_ns(self) -> int:
        """Return the machine's time."""
        return self._machine.clock.now_ns()

    def at(self, offset_ns: int, action: Callable[[int], None]) -> None:
        """Call ``action(now_ns)`` at an offset into the next epoch."""
        self._machine.at(offset_ns, action)

    def read_accessed(
        self, first: int, last: int, step: int, node: int | None
    ) -> tuple[Bits, Bits, int]:
        """Read and clear accessed bits of blocks ``first:last:step``."""
        count = max(0, -(-(last - first) // step))
        bits = np.zeros(count, np.uint8)
        observed = np.zeros(count, np.uint8)
        on = -1 if node is None else node
        huge, spared = self._machine.huge_memory, 0
        touched: NDArray[np.bool_] | None = None
        if huge is not None:
            touched, spared = huge.fold_bits(first, last, step, play.ACCESSED, on)
        entries = play.read_bits(
            self._machine.flags, first, last, step, play.ACCESSED, on, bits, observed
        )
        if touched is not None:
            observed[touched] = 0
        return bits, observed, int(entries) - spared

    def poison(
        self, start_page: int, end_page: int, node: int | None
    ) -> tuple[int, NDArray[np.uint32], NDArray[np.float32]]:
        """Poison pages of a range that are on ``node``."""
        end_page = min(end_page, self.pages)
        span = max(0, end_page - start_page)
        silent = np.empty(span, np.uint32)
        waited = np.empty(span, np.uint32)
        out = np.zeros(3, np.int64)
        poison_range(
            self._machine.flags,
            self._since,
            self._told,
            start_page,
            end_page,
            -1 if node is None else node,
            ((self.now_ns() - self._opened_ns) // TICK_NS) % _WRAP_TICKS,
            silent,
            waited,
            out,
        )
        self._machine.nr_poisoned += int(out[2])
        k = int(out[1])
        silent_s = waited[:k] / (NS_PER_S // TICK_NS)
        return int(out[0]), silent[:k], silent_s.astype(np.float32)

    def drain_faults(self) -> FaultsTaken:
        """Return the faults taken since the last call."""
        taken, self._faults = self._faults, []
        return FaultsTaken(
            np.concatenate([np.empty(0, np.uint32), *(f.page for f in taken)]),
            np.concatenate([np.empty(0, np.float32), *(f.delay_s for f in taken)]),
            np.concatenate([np.empty(0, np.float32), *(f.exposure_s for f in taken)]),
            np.concatenate([np.empty(0, np.uint8), *(f.write for f in taken)]),
            np.concatenate([np.empty(0, np.uint8), *(f.initiator for f in taken)]),
        )

    def _take(
        self,
        page: NDArray[np.uint32],
        when_ns: NDArray[np.float64],
        write: NDArray[np.uint8],
        initiator: NDArray[np.uint8],
    ) -> None:
        at_ns = when_ns.astype(np.int64) - self._opened_ns
        delay_s, exposure_s = (
            _seconds_since(ticks[page], at_ns) for ticks in (self._since, self._told)
        )
        self._faults.append(FaultsTaken(page, delay_s, exposure_s, write, initiator))


class SimRegions:
    """kdamond."""

    checks = CHECKS
    check_ns = SAMPLE_NS

    def __init__(self, machine: SimMachine, seed: int, epoch_ns: int) -> None:
        self._machine = machine
        self._epoch_ns = epoch_ns
        self._sampler = RegionSampler(machine.flags, machine.pages, seed)
        machine.bits_wanted |= play.REGION_ACCESSED

    def now_ns(self) -> int:
        """Return the machine's time."""
        return self._machine.clock.now_ns()

    def arm_regions(self) -> None:
        """Check every 5 ms of the next epoch."""
        for offset_ns in range(0, self._epoch_ns, SAMPLE_NS):
            self._machine.at(offset_ns, lambda _: self._sampler.check())

    def drain_regions(self) -> tuple[Sequence[Aggregation], int]:
        """Return the aggregations since the last call and the entries read."""
        found, self._sampler.snapshots = self._sampler.snapshots, []
        entries, self._sampler.entries = self._sampler.entries, 0
        return found, entries

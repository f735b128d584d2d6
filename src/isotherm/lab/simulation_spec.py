"""What is to be simulated, and whether that can be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import Mechanism
from isotherm.lab.cpu_advice import MODES
from isotherm.lab.huge_pages import check_huge_pages
from isotherm.lab.placement import check_placement
from isotherm.machine.sim.trouble import Faults
from isotherm.trace.compressibility import parse_compressibility
from isotherm.trace.stream import Pace

MAX_EPOCH_S = 3600  # decisions: one an hour is hardly any


@dataclass(frozen=True, slots=True)
class SimulationSpec:
    """What to simulate.

    Attributes:
        policy: Name of a policy or bound.
        workload: Name of a generator, or a TOML file or trace.
        machine: Name of a machine, or a TOML file or recorded topology.
        fast_ratio: Fast capacity over footprint, in (0, 1].
        pages: Footprint of a generated workload; None: 32768.
        accesses: Stop after so many; None: 120 s, or the whole trace.
        seed: For everything random.
        rate: Accesses per page per second; None: the trace's own times.
        placement: "random", "first-access" or "slowest".
        hints: Mechanisms that the machine offers; those that the policy can
            use are on. None: what the policy wants.
        sampling_period: Accesses per sample.
        sampling_loss: Share of samples that the hardware drops, in [0, 1).
        epoch_s: Length of an epoch.
        memory_bound: Share of the run time that is memory latency; adds
            ``app_slowdown``.
        options: The policy's parameters.
        workload_options: The generator's parameters.
        faults: Injected trouble: busy, no_memory, vanished, pinned, as shares.
        compressibility: How well the data compress, ``RATIO`` or
            ``RATIO-RATIO/SECONDS``; None: as the workload says, or 2. For machines
            with an expander.
        recording: A perf.data file whose samples stand for the machine's; None:
            the machine's own. For traces that kept their page numbers.
        tenants: A file that says whose the parts of a mixed workload are, and who
            gets how much of the fast tier; None: nobody has a claim.
        huge_pages: Who decides about page sizes, ``MODE`` or ``MODE:START``
            (docs/reference/huge-pages.md); None: all pages are small.
        advise_cpus: "print" advises where threads should run, "apply" has them run
            there; "off" does neither.
    """

    policy: str
    workload: str
    machine: str = "dram-cxl"
    fast_ratio: float = 0.2
    pages: int | None = None
    accesses: int | None = None
    seed: int = 1
    rate: float | None = 10.0
    placement: str = "random"
    hints: tuple[str, ...] | None = None
    sampling_period: int = 2000
    sampling_loss: float = 0.0
    epoch_s: float = 0.5
    memory_bound: float | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    workload_options: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)
    compressibility: str | None = None
    recording: str | None = None
    tenants: str | None = None
    huge_pages: str | None = None
    advise_cpus: str = "off"

    def check(self) -> None:
        """Raise UsageError for a figure out of range."""
        for name, low, high in (
            ("fast_ratio", 0.0, 1.0),
            ("memory_bound", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not low < value <= high:
                raise UsageError(
                    f"{name}: expected in ({low:g}, {high:g}], got {value}"
                )
        for name in ("pages", "accesses", "rate", "sampling_period", "epoch_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name}: expected > 0, got {value}")
        if not 0 <= self.sampling_loss < 1:
            raise UsageError(
                f"sampling_loss: expected in [0, 1), got {self.sampling_loss}"
            )
        if round(self.epoch_s * NS_PER_S) < 1:
            raise UsageError(f"epoch_s: expected >= 1e-9, got {self.epoch_s}")
        if self.epoch_s > MAX_EPOCH_S:
            raise UsageError(
                f"epoch_s: expected at most {MAX_EPOCH_S}, got {self.epoch_s:g}"
            )
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed: expected from 0 to 2^63 - 1, got {self.seed}")
        known = [f.name for f in fields(Faults)]
        for fault in self.faults:
            if fault not in known:
                raise UsageError(
                    f"faults: expected {', '.join(known)}, got {fault!r}"
                    f"{did_you_mean(fault, known)}"
                )
        Faults(**self.faults)
        check_placement(self.placement)
        check_huge_pages(self.huge_pages, self.policy)
        if self.compressibility is not None:
            parse_compressibility(self.compressibility)
        if self.advise_cpus not in MODES:
            raise UsageError(
                f"advise_cpus: expected {', '.join(MODES)}, got {self.advise_cpus!r}"
            )
        for hint in self.hints or ():
            if hint not in set(Mechanism):
                raise UsageError(
                    f"hints: expected {', '.join(Mechanism)}, got {hint!r}"
                    f"{did_you_mean(hint, list(Mechanism))}"
                )

    @property
    def pace(self) -> Pace:
        """How accesses become time."""
        return Pace(round(self.epoch_s * NS_PER_S), self.rate, self.accesses)

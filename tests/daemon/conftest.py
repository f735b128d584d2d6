"""A service on the simulator: the same loop, with a clock that tests move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from isotherm.core.units import NS_PER_S
from isotherm.daemon.config import Config
from isotherm.daemon.service import Service
from isotherm.hints.accessed_bit import AccessedBitSource
from isotherm.lab.placement import place, random_order
from isotherm.machine.sim.machine import SimMachine
from isotherm.machine.sim.mechanisms import SimPageTable
from isotherm.machine.sim.spec import load_machine
from isotherm.migration.engine import MigrationEngine
from isotherm.migration.holdback import HoldBack
from isotherm.trace.stream import Pace
from isotherm.workloads.registry import make_workload

PAGES = 4096
RATE = 10.0


@dataclass
class Played:
    """A service, and the workload that runs while it waits."""

    service: Service
    machine: SimMachine
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    stop_after_s: float | None = None
    cost_ns: int = 0

    def wait(self, seconds: float) -> bool:
        """Let the workload run for so long; say whether to stop."""
        self.waits.append(seconds)
        if self.stop_after_s is not None and self.seconds >= self.stop_after_s:
            return True
        dt_ns = max(1, round(seconds * NS_PER_S))
        workload = make_workload("gups", PAGES, 1)
        count = max(1, round(RATE * PAGES * seconds))
        chunk = next(iter(workload.epochs(Pace(dt_ns, RATE, count))))
        self.machine.advance(chunk, dt_ns)
        self.seconds += seconds
        return False


@pytest.fixture
def playing() -> Callable[..., Played]:
    """Return a function that builds a service over a simulated host."""

    def build(
        config: Config | None = None,
        cpu_ns: Callable[[], int] = lambda: 0,
        alive: Callable[[], bool] = lambda: True,
        hold_back: HoldBack | None = None,
        **options: Any,
    ) -> Played:
        machine = SimMachine(load_machine("dram-cxl"), PAGES, 0.2)
        order = random_order(PAGES, 1)
        machine.place(place(order, machine.capacity, machine.tier_rank))
        table = SimPageTable(machine, faults=False, bits=True)
        source = AccessedBitSource(table, 30.0, NS_PER_S)
        service = Service(
            machine,
            (source,),
            config or Config(),
            lambda m: MigrationEngine(
                m, quota_pages_per_s=51200.0, hold_back=hold_back
            ),
            alive,
            cpu_ns=cpu_ns,
            **options,
        )
        return Played(service, machine)

    return build

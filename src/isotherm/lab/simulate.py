"""One policy, one workload, one machine: the simulation."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.compiling import COMPILING
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.hints.batch import Mechanism
from isotherm.hotness.protocol import HotnessView
from isotherm.hotness.tracker import GammaTracker
from isotherm.lab.cpu_advice import SimulatedThreads
from isotherm.lab.future import future_for, stream_spaces
from isotherm.lab.hint_sources import build_sources
from isotherm.lab.huge_pages import (
    HugeRun,
    machine_class,
    make_huge_policy,
    whole_ranges,
)
from isotherm.lab.placement import (
    first_access_order,
    place,
    random_order,
)
from isotherm.lab.recorded_hints import Recording
from isotherm.lab.run_result import result_of
from isotherm.lab.simulation_spec import SimulationSpec
from isotherm.lab.tenants import TenantRun, open_tenants
from isotherm.loop.epoch import Loop, Step, run_epoch
from isotherm.machine.protocol import SpacesChanged
from isotherm.machine.sim.bill import Bill, EpochCosts
from isotherm.machine.sim.spec import MachineSpec, load_machine
from isotherm.machine.sim.trouble import Faults
from isotherm.migration.cost import CostPrior
from isotherm.migration.engine import MigrationEngine
from isotherm.observability.recorder import Recorder
from isotherm.policy.bounds import Future
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Outcome, Policy, Setup
from isotherm.policy.registry import make_policy
from isotherm.trace.compressibility import parse_compressibility
from isotherm.trace.stream import AccessChunk, Workload
from isotherm.workloads.registry import make_workload

__all__ = ["DEFAULT_PAGES", "MOVE_QUOTA", "SimulationSpec", "simulate"]

DEFAULT_PAGES = 32768
MOVE_QUOTA = 0.2  # of the pages per second, the same for every policy


def simulate(
    spec: SimulationSpec,
    *,
    recorder: Recorder | None = None,
    progress: Callable[[float], None] | None = None,
    workload: Workload | None = None,
    future: Future | None = None,
    machine: MachineSpec | None = None,
) -> dict[str, Any]:
    """Run one simulation and return its result as JSON values.

    Args:
        spec: What to simulate.
        recorder: Keeps what the run did.
        progress: Called with seconds simulated after every epoch.
        workload: The workload, where the caller has it already.
        future: Its counts, where the caller has them already (bounds).
        machine: The machine, where it is none with a name or file.

    Raises:
        UsageError: A name or figure of the spec is wrong.
    """
    began = time.perf_counter()
    spec.check()
    if workload is None:
        workload = make_workload(
            spec.workload,
            spec.pages or DEFAULT_PAGES,
            spec.seed,
            spec.workload_options or None,
        )
    run = _Run(spec, workload, recorder, future, machine)
    run.play(progress)
    result = run.result(time.perf_counter() - began)
    if run.tenants is not None:
        result["tenants"] = run.tenants.report(run.policy, run.epochs, _alone(run))
    if recorder is not None:
        recorder.finish(result)
    return result


def _alone(run: "_Run") -> dict[int, dict[str, Any]]:
    """Return what every tenant with a guarantee meets alone, within it."""
    found: dict[int, dict[str, Any]] = {}
    if run.tenants is None:
        return found
    for nr in range(len(run.tenants.tenancy.tenants)):
        part, slots = run.tenants.part(nr, run.pace), run.tenants.slots(nr)
        if slots:
            spec = replace(run.spec, tenants=None, fast_ratio=slots / part.pages)
            found[nr] = simulate(spec, workload=part)
    return found


def _accepted(policy: Policy) -> frozenset[Mechanism]:
    """Return the mechanisms that a policy can use, wanted or not: its ``accepts``."""
    accepted: frozenset[Mechanism] = getattr(policy, "accepts", policy.wants)
    return accepted


def _takes_births(policy: Policy, pages: int) -> bool:
    """Return whether a policy can be told of pages that are new."""
    try:
        policy.renew(SpacesChanged(pages, np.empty((0, 2), np.int64)))
    except UnsupportedError:
        return False
    return True


def _demand_fill(policy: Policy) -> str | None:
    """Return how a policy wants the fastest tier filled on demand, if it does."""
    fill: str | None = getattr(policy, "demand_fill", None)
    return fill


class _Run:
    """One simulation under way."""

    def __init__(
        self,
        spec: SimulationSpec,
        workload: Workload,
        recorder: Recorder | None,
        future: Future | None,
        machine_spec: MachineSpec | None,
    ) -> None:
        self.spec = spec
        self.workload = workload
        self.recorder = recorder
        self.pace = spec.pace
        pages = workload.pages
        self.machine = machine_class(spec.huge_pages)(
            machine_spec or load_machine(spec.machine),
            pages,
            spec.fast_ratio,
            spec.seed,
            workload.name,
            Faults(**spec.faults),
            getattr(workload, "streams", ()),
            getattr(workload, "background", ()),
        )
        machine = self.machine
        self._state_compressibility()
        self.tenants = None
        if spec.tenants is not None:
            file = open_tenants(spec.tenants, workload)
            self.tenants = TenantRun(file, workload, machine)
        self.recording = None
        if spec.recording is not None:
            self.recording = Recording(
                Path(spec.recording),
                machine,
                workload,
                spec.rate,
                str(spec.workload_options.get("window", "1/1")),
            )
        setup = Setup(
            pages=pages,
            topology=machine.topology,
            capacity_pages=machine.capacity,
            epoch_ns=self.pace.epoch_ns,
            seed=spec.seed,
            hints=frozenset(Mechanism(h) for h in spec.hints or ()),
            sampling_period=spec.sampling_period,
            parallelism=machine.parallelism,
            options=spec.options,
            spaces=stream_spaces(workload),
            tenancy=None if self.tenants is None else self.tenants.tenancy,
        )
        future = future_for(
            spec.policy, future, workload, self.pace, machine.load, machine.pinned()
        )
        self.policy, self.hints = self._make_policy(setup, future)
        machine.place(self.policy.start(self._placement()))
        self.huge = HugeRun.begin(spec.huge_pages, machine)
        self.tracker = None
        if self.policy.uses_tracker:
            self.tracker = GammaTracker(
                pages,
                self.pace.epoch_ns,
                self.hints,
                spec.seed,
                weigh_stall=getattr(self.policy, "weighs_stall", False),
            )
        if fill := _demand_fill(self.policy):
            if fill != "lru":
                raise UnsupportedError(f"machine {machine.spec.name}: no {fill} cache")
            machine.fill_on_demand()
        self.engine = MigrationEngine(
            machine,
            quota_pages_per_s=max(2.0, MOVE_QUOTA * pages),
            batch_pages=1 << 30,
            prior_cost=self._prior_cost(),
        )
        self.loop = Loop(
            machine,
            build_sources(
                machine,
                self.hints,
                self.pace.epoch_ns,
                spec,
                None if self.recording is None else self.recording.source,
            ),
            self.tracker,
            self.policy,
            self.engine,
            Outcome.none(),
            sizer=None if self.huge is None else self.huge.sizer,
            labeller=None if self.tenants is None else self.tenants.labeller,
        )
        machine.tells_births = _takes_births(self.policy, pages)
        self.cpus = None
        if spec.advise_cpus != "off":
            acts = spec.advise_cpus == "apply"
            self.cpus = SimulatedThreads(machine, self.loop, acts=acts)
        self.epochs = 0
        self.wall_s = 0.0

    def _make_policy(
        self, setup: Setup, future: Future | None
    ) -> tuple[Policy, frozenset[Mechanism]]:
        """Return the policy and the mechanisms that are on for it.

        Without --hints those are all that it wants; with it, those of them that
        it can use: nobody pays for what is not read.
        """

        def make(setup: Setup) -> Policy:
            if self.spec.huge_pages is not None:
                return make_huge_policy(self.spec.huge_pages, setup)
            return make_policy(self.spec.policy, setup, future)

        policy = make(setup)
        on = policy.wants
        if self.spec.hints is not None:
            on = setup.hints & _accepted(policy)
        if on != setup.hints:
            policy = make(replace(setup, hints=on))
        return policy, on

    def _state_compressibility(self) -> None:
        """Tell the expander how the data compress.

        Raises:
            UsageError: It was said for a machine that compresses nothing.
        """
        own = self.spec.compressibility
        expander = self.machine.expander
        if expander is None:
            if own is not None:
                raise UsageError(
                    f"compressibility: machine {self.machine.spec.name} compresses"
                    f" nothing, got {own}",
                    hint="--machine ocp-expander does",
                )
            return
        stated: str | None = getattr(self.workload, "compressibility", None)
        if own or stated:
            expander.state(parse_compressibility(own or stated or ""))

    def _prior_cost(self) -> CostPrior:
        costs = self.machine.spec.costs
        return CostPrior(
            page_ns=costs.move_page_ns + costs.move_byte_ns * PAGE_BYTES,
            fixed_ns=costs.move_fixed_ns,
        )

    def _placement(self) -> NDArray[np.uint8]:
        pages = self.workload.pages
        if self.spec.placement == "slowest":
            return np.full(pages, np.argmax(self.machine.tier_rank), np.uint8)
        if self.spec.placement == "random":
            order = random_order(pages, self.spec.seed)
        else:
            order = first_access_order(pages, self.workload.epochs(self.pace))
        if self.spec.huge_pages is not None:
            order = whole_ranges(order)
        return place(order, self.machine.capacity, self.machine.tier_rank)

    def play(self, progress: Callable[[float], None] | None) -> None:
        """Play the workload to its end."""
        machine, dt_ns = self.machine, self.pace.epoch_ns
        if self.recorder is not None:
            self.recorder.start(
                spec=asdict(self.spec),
                topology=machine.topology,
                node=machine.placement(),
                epoch_ns=dt_ns,
                latency_ns=machine.read_ns,
                move_cost_ns=machine.move_cost_ns(),
            )
        for source in self.loop.sources:
            source.look(())
        for chunk in self._chunks():
            before, filled = replace(machine.bill), self._demand_filled()
            # A first start compiles within an epoch: that is set-up.
            began = time.perf_counter() - COMPILING.total_s
            costs = machine.advance(chunk, dt_ns)
            step = run_epoch(self.loop, self.epochs, dt_ns)
            if self.cpus is not None:
                self.cpus.after(step, dt_ns)
            for batch in step.hints:
                machine.charge(batch.application_ns, batch.background_ns)
            if self.tenants is not None:
                self.tenants.follow(step, self.policy)
            self.wall_s += time.perf_counter() - COMPILING.total_s - began
            if self.recorder is not None:
                self._record(chunk, costs, step, before, filled)
            self.epochs += 1
            if progress is not None:
                progress(self.epochs * dt_ns / NS_PER_S)
            del chunk  # large: gone before the next one is made

    def _chunks(self) -> Iterator[AccessChunk]:
        return self.workload.epochs(self.pace)

    def _record(
        self,
        chunk: AccessChunk,
        costs: EpochCosts,
        step: Step,
        before: Bill,
        filled: tuple[int, int],
    ) -> None:
        recorder, machine = self.recorder, self.machine
        if recorder is None:
            return
        promoted = demoted = None
        if machine.demand_fill is not None:
            now = self._demand_filled()
            promoted, demoted = now[0] - filled[0], now[1] - filled[1]
        size, rows = recorder.region_pages, recorder.regions
        heat = np.bincount(chunk.page // size, minlength=rows)
        fast = machine.tier_rank[machine.placement()] == 0
        starts = np.arange(0, machine.pages, size)
        share = np.add.reduceat(fast.astype(np.float32), starts)
        share /= np.diff(np.append(starts, machine.pages))
        recorder.epoch(
            index=self.epochs,
            now_ns=machine.clock.now_ns(),
            dt_ns=self.pace.epoch_ns,
            accesses_per_node=costs.accesses.sum((0, 1))[: len(machine.capacity)],
            heat=heat.astype(np.float32),
            fast_share=share,
            plan_moves=step.plan.moves,
            outcome=step.outcome,
            notes=step.plan.notes,
            latency_ns=machine.latency_ns(),
            costs={
                "application_ns": sum(b.application_ns for b in step.hints),
                "background_ns": sum(b.background_ns for b in step.hints),
                "migration_ns": machine.bill.migration_ns - before.migration_ns,
                "access_ns": costs.access_ns,
                "all_fast_ns": costs.all_fast_ns,
            },
            usage=machine.usage(),
            belief=self._belief(step.hotness, size, rows),
            promoted_pages=promoted,
            demoted_pages=demoted,
            resized=step.resized,
        )

    def _demand_filled(self) -> tuple[int, int]:
        """Return pages that a demand-filled tier has taken in and put out so far."""
        cache = self.machine.demand_fill
        return (0, 0) if cache is None else (cache.promoted, cache.evicted)

    def _belief(
        self, hotness: HotnessView | None, size: int, rows: int
    ) -> NDArray[np.float64] | None:
        """Return the mean rate of every recorded region that decided."""
        if hotness is None:
            return None
        last = hotness.pages
        rate: Callable[[int, int], float]
        if isinstance(self.policy, Isotherm):
            rate = self.policy.expected_rate
        else:

            def rate(start: int, end: int) -> float:
                return hotness.range_rate(start, end)[0]

        return np.array(
            [rate(i * size, min(last, (i + 1) * size)) for i in range(rows)]
        )

    def result(self, total_s: float) -> dict[str, Any]:
        """Return the result; see the JSON contract in docs/reference/cli.md."""
        result = result_of(self, total_s)
        if self.recording is not None:
            result["recording"] = self.recording.report()
            self.recording.close()
        return result

"""The service: run_epoch at a pace, under a brake, within a budget."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.brake import Brake, Limits, Reading, Shift
from isotherm.daemon.budget import Pacer
from isotherm.daemon.config import BrakeConfig, Config
from isotherm.daemon.gate import Gate
from isotherm.daemon.huge import brake_sizer, make_live_policy, open_sizer
from isotherm.daemon.pressure import Pressure, PressureReader
from isotherm.daemon.record import LiveRecorder
from isotherm.daemon.result import Costs, result_of
from isotherm.daemon.tally import Tally
from isotherm.daemon.tenants import LiveTenants
from isotherm.hints.batch import HintBatch, HintSource, LiveMechanism, Mechanism
from isotherm.hotness.protocol import HotnessTracker, HotnessView
from isotherm.hotness.tracker import GammaTracker
from isotherm.loop.epoch import Loop, Step, run_epoch
from isotherm.machine.protocol import NOT_PRESENT, Machine
from isotherm.migration.books import Books
from isotherm.migration.ledger import GainLedger
from isotherm.migration.protocol import Engine
from isotherm.migration.ranks import rank_column
from isotherm.migration.totals import Totals
from isotherm.policy.plan import Outcome, Policy, Setup
from isotherm.topology.model import Topology

#: Pages that the estimate of the fast share is made from.
ASKED_PAGES: Final = 1 << 14
#: Epochs that the fast share is smoothed over.
SMOOTH: Final = 0.2

#: How long a page is thought to stay where it was moved, seconds, and one that
#: came back soon (the engine's window).
STAY_S: Final = 300.0
PING_PONG_S: Final = 10.0

#: A wait that ends so long before its time has not ended early.
_EARLY_NS: Final = 1_000_000

log = structlog.get_logger()


class RunEngine(Engine, Protocol):
    """An engine that also says what became of all moves."""

    @property
    def totals(self) -> Totals:
        """What became of all wishes."""
        ...

    @property
    def ledger(self) -> GainLedger:
        """What moves promised and earned."""
        ...

    @property
    def books(self) -> Books:
        """Costs, and moves held back."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A policy that goes on when epochs become longer or shorter."""

    def repace(self, epoch_ns: int) -> None:
        """Go on with epochs of another length; what has been learnt stays."""
        ...


@runtime_checkable
class Limitable(Protocol):
    """An engine whose quota can change."""

    def limit(self, pages_per_s: float) -> None:
        """Go on with another quota."""
        ...


@dataclass(frozen=True, slots=True)
class Grain:
    """Machine and sources in units of so many pages.

    Attributes:
        machine: Where units live.
        sources: Open hint sources.
        unit_pages: Pages in a unit.
    """

    machine: Machine
    sources: tuple[HintSource, ...]
    unit_pages: int


class Observer(Protocol):
    """Is shown every epoch: the explain socket, a live view."""

    def __call__(self, service: "Service", step: Step) -> None:
        """Look; must be quick and change nothing."""
        ...


def limits_of(config: BrakeConfig) -> Limits:
    """Return the brake's limits as it wants them."""
    return Limits(
        pressure=config.psi_some_percent / 100,
        refaults_per_s=config.refaults_per_s,
        failures=config.failure_percent / 100,
        react_s=config.react_s,
        recover_s=config.recover_s,
    )


class Service:
    """Runs the loop on a machine until it is told to stop.

    Args:
        machine: Where pages live.
        sources: Open hint sources.
        config: What can be set.
        make_engine: Builds the engine for the machine.
        alive: Whether anything is left to manage.
        pressure: Reads stalls and refaults; None: nothing is known.
        dry_run: Decide and say, move nothing.
        unit_pages: Pages in what the machine calls a page.
        observers: Shown every epoch.
        coarser: Asked when memory has grown: larger units, where those at hand do
            not keep the memory budget any more; None: they do. A run that is
            recorded keeps its units.
        cpu_ns: CPU time of this process so far.
        tenants: Who shares the fast tier; None: nobody has a claim.
    """

    def __init__(
        self,
        machine: Machine,
        sources: tuple[HintSource, ...],
        config: Config,
        make_engine: Callable[[Machine], RunEngine],
        alive: Callable[[], bool],
        *,
        pressure: PressureReader | None = None,
        dry_run: bool = False,
        unit_pages: int = 1,
        observers: tuple[Observer, ...] = (),
        coarser: Callable[[], Grain | None] | None = None,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        tenants: LiveTenants | None = None,
    ) -> None:
        self.machine, self.config, self.dry_run = machine, config, dry_run
        self.unit_pages = unit_pages
        self.recorder: LiveRecorder | None = None
        self.observers = list(observers)
        self._alive, self._pressure, self._cpu_ns = alive, pressure, cpu_ns
        self._coarser, self._make_engine = coarser, make_engine
        self.tenants = tenants
        if tenants is not None:
            self.observers.append(tenants.observe)
        self.rank = rank_column(machine.topology, 256).astype(np.int64)
        self._mechanisms = frozenset(_as_columns(s.mechanism) for s in sources)
        self.seen_by = sorted({source.mechanism.value for source in sources})
        self.pacer = Pacer(
            config.loop.epoch_s,
            config.loop.longest_epoch_s,
            config.budget.cpu_percent / 100,
        )
        self.brake = Brake(limits_of(config.brake))
        self.gate = Gate(self._make_policy(), dry_run=dry_run)
        self.engine = make_engine(machine)
        self.loop = self._join(sources)
        self.epochs = 0
        self._past = Tally()  # of engines that have ended
        self.costs = Costs()
        self.shifts: list[Shift] = []
        self.step: Step | None = None
        self.fast_share: float | None = None
        self.tier_shares = np.zeros(0)  # of accesses; empty: not known yet
        self.fast_share_at_start: float | None = None
        self.wished_pages = [0, 0]  # up, down
        self.managed_pages = 0  # pages, not units
        self.most_managed_pages = 0
        self.lost = 0
        self.paced: list[dict[str, float | bool]] = []
        self.units: list[dict[str, int]] = []  # changes of the unit
        self.tiers: list[dict[str, Any]] = []  # changes of the tiers
        self.began_ns = machine.clock.now_ns()
        self.last_ns = self.began_ns
        self._last_cpu_ns = cpu_ns()

    def _join(self, sources: tuple[HintSource, ...]) -> Loop:
        """Return a loop over the machine as it is now; its tracker knows nothing."""
        tracker: HotnessTracker | None = None
        if self.gate.uses_tracker:
            tracker = GammaTracker(
                max(self.machine.pages, 8),
                round(self.pacer.epoch_s * NS_PER_S),
                self._mechanisms,
                self.config.loop.seed,
            )
        none = Outcome.none()
        loop = Loop(self.machine, sources, tracker, self.gate, self.engine, none)
        loop.labeller = None if self.tenants is None else self.tenants.labeller
        loop.sizer = open_sizer(
            self.config, self.machine, self.engine, dry_run=self.dry_run
        )
        return loop

    # -- running -----------------------------------------------------------

    def run(
        self, wait: Callable[[float], bool], duration_s: float | None = None
    ) -> str:
        """Run epochs until there is a reason to end; return it.

        Args:
            wait: Waits so many seconds, or less; True: somebody asks for the end.
            duration_s: End after so long.

        Returns:
            ``asked``, ``gone`` (nothing is left to manage) or ``duration``.
        """
        for source in self.loop.sources:
            source.look(())
        clock = self.machine.clock
        end_ns = None
        if duration_s is not None:
            end_ns = self.began_ns + round(duration_s * NS_PER_S)
        due_ns = clock.now_ns()
        while True:
            due_ns = max(due_ns, clock.now_ns() - NS_PER_S)
            due_ns += round(self.pacer.epoch_s * NS_PER_S)
            if end_ns is not None:
                due_ns = min(due_ns, end_ns)
            reason = self._wait_until(due_ns, wait)
            if reason is not None:
                return reason
            self.epoch()
            if end_ns is not None and clock.now_ns() >= end_ns:
                return "duration"

    def _wait_until(self, due_ns: int, wait: Callable[[float], bool]) -> str | None:
        """Wait for an epoch; return why there is to be none.

        A wait may end early: the process that a run was started with has ended, and
        what it has forked lives on.
        """
        clock = self.machine.clock
        while True:
            if wait(max(0.0, (due_ns - clock.now_ns()) / NS_PER_S)):
                return "asked" if self._alive() else "gone"
            if not self._alive():
                return "gone"
            if due_ns - clock.now_ns() < _EARLY_NS:
                return None

    def epoch(self) -> Step:
        """Run one epoch now."""
        now_ns = self.machine.clock.now_ns()
        dt_ns = max(1, now_ns - self.last_ns)
        self.last_ns = now_ns
        step = self.step = run_epoch(self.loop, self.epochs, dt_ns)
        if step.change is not None and step.change.topology is not None:
            self._take_tiers(step.change.topology)
        self._follow(step)
        self._brake(step, now_ns)
        self._account(step)
        if self.recorder is not None:
            self.recorder.epoch(self.epochs, dt_ns, step, self.gate.wished)
        for observer in self.observers:
            observer(self, step)
        self.epochs += 1
        log.debug("epoch", index=self.epochs, **self._figures(step))
        if step.change is not None:
            self._keep_memory_budget()
        return step

    def _take_tiers(self, topology: Topology) -> None:
        """Go on with nodes that have come, or without those that have gone."""
        self.rank = rank_column(topology, 256).astype(np.int64)
        tiers = [list(tier.nodes) for tier in topology.tiers]
        log.info("tiers", nodes=tiers)
        self.tiers.append({"epoch": self.epochs, "tiers": tiers})

    def _keep_memory_budget(self) -> None:
        """Go on in larger units where memory has outgrown those at hand.

        Tracker, policy and engine begin anew; the brake, the pace and all accounts
        go on, and so do sources, journal and locks.
        """
        if self._coarser is None or self.recorder is not None:
            return
        grain = self._coarser()
        if grain is None:
            return
        self.engine.close()
        self._past = self._past.plus(self.engine, self.unit_pages)
        self.machine, self.unit_pages = grain.machine, grain.unit_pages
        self.engine = self._make_engine(grain.machine)
        self.engine.throttle(self.brake.share)
        self.gate.inner = self._make_policy()
        self.loop = self._join(grain.sources)
        self.units.append({"epoch": self.epochs, "unit_pages": grain.unit_pages})
        for source in grain.sources:
            source.look(())

    def _follow(self, step: Step) -> None:
        """Follow what is managed, what was wished for, and the fast share."""
        node = self.machine.placement()
        if step.hotness is not None:
            self._estimate_fast_share(step.hotness, node)
        wished = self.gate.wished
        down = self.rank[wished.node] > self.rank[node[wished.page]]
        unit = self.unit_pages
        self.wished_pages[0] += int(np.count_nonzero(~down)) * unit
        self.wished_pages[1] += int(np.count_nonzero(down)) * unit
        self.managed_pages = int(np.count_nonzero(node != NOT_PRESENT)) * unit
        self.most_managed_pages = max(self.most_managed_pages, self.managed_pages)

    def _estimate_fast_share(self, view: HotnessView, node: NDArray[np.uint8]) -> None:
        """Estimate the share of accesses served by the fastest tier, from a sample."""
        stride = max(1, len(node) // ASKED_PAGES)
        page = np.arange(self.epochs % stride, len(node), stride, dtype=np.uint32)
        page = page[node[page] != NOT_PRESENT]
        rate = view.rate(page).astype(np.float64)
        total = float(rate.sum())
        if total <= 0:
            return
        tiers = len(self.machine.topology.tiers)
        now = np.bincount(self.rank[node[page]], rate, tiers)[:tiers] / total
        if len(self.tier_shares) != tiers:
            self.tier_shares = now
        self.tier_shares = self.tier_shares + SMOOTH * (now - self.tier_shares)
        share = float(now[0])
        if self.fast_share is None:
            self.fast_share = self.fast_share_at_start = share
        self.fast_share += SMOOTH * (share - self.fast_share)

    def _brake(self, step: Step, now_ns: int) -> None:
        if not self.config.brake.enabled:
            return
        pressure = Pressure(None, None)
        if self._pressure is not None:
            pressure = self._pressure.read(now_ns)
        # A node without room is no failure: the engine waits until there is some.
        code = step.outcome.errno[step.outcome.errno != errno.ENOMEM]
        reading = Reading(
            now_ns,
            pressure.some,
            pressure.refaults_per_s,
            len(code),
            int(np.count_nonzero(code)),
            self._gain(),
        )
        for shift in self.brake.step(reading):
            self.shifts.append(shift)
            log.warning(
                shift.event,
                sign=shift.sign.value,
                value=shift.value,
                limit=shift.limit,
                share=shift.share,
            )
            self.gate.share = shift.share
            self.engine.throttle(shift.share)
            brake_sizer(self.loop.sizer, shift.share)

    def _gain(self) -> float | None:
        """Return what moves gain over those held back, in standard errors.

        The comparison charges a whole move to the time that a page is followed.
        Most moves last longer: of their cost only as much counts here as that time
        is of a stay.
        """
        hold_back, totals = self.engine.books.hold_back, self.engine.totals
        found = None if hold_back is None else hold_back.compare()
        if hold_back is None or found is None or self.brake.share <= 0:
            return None
        back = totals.ping_pong / max(1, totals.applied)
        followed_s = hold_back.horizon_ns / NS_PER_S
        stay_s = max(followed_s, STAY_S * (1 - back) + PING_PONG_S * back)
        cost_ns = found.moved * totals.cost_ns / max(1, totals.tried)
        gain_ns = found.realised_ns + cost_ns * (1 - followed_s / stay_s)
        return float(gain_ns) / max(float(found.error_ns), 1e-9)

    def _account(self, step: Step) -> None:
        """Add up costs; change the pace where they do not fit the budget."""
        costs = self.costs
        costs.application_ns += sum(b.application_ns for b in step.hints)
        costs.background_ns += sum(b.background_ns for b in step.hints)
        costs.migration_ns += step.outcome.cost_ns
        self.lost += sum(b.lost for b in step.hints)
        cpu_ns = self._cpu_ns()
        spent = cpu_ns - self._last_cpu_ns + _kernel_ns(step.hints)
        self._last_cpu_ns = cpu_ns
        costs.cpu_ns += spent
        paced = self.pacer.observe(spent)
        if paced is None:
            return
        self.paced.append({"epoch": self.epochs, "epoch_s": paced.after_s})
        say = log.info if paced.kept else log.warning
        say(
            "coarser" if paced.after_s > paced.before_s else "finer",
            epoch_s=paced.after_s,
            was_s=paced.before_s,
            cost_ms=round(1e3 * paced.cost_s, 3),
            budget_percent=self.config.budget.cpu_percent,
            kept=paced.kept,
        )
        self._repace(paced.after_s)

    def _repace(self, epoch_s: float) -> None:
        """Give tracker and policy epochs of another length; what is known stays.

        A policy that cannot change its pace begins anew.
        """
        tracker = self.loop.tracker
        if isinstance(tracker, GammaTracker):
            tracker.epoch_s = epoch_s
        if isinstance(self.gate.inner, Paced):
            self.gate.inner.repace(round(epoch_s * NS_PER_S))
        else:
            self.gate.inner = self._make_policy()

    def reconfigure(self, config: Config) -> None:
        """Go on with another pace, budget, quota and other limits of the brake.

        What is learnt stays; the rest of the configuration must be as it was.
        """
        loop, before = config.loop, self.config
        self.config = config
        share = config.budget.cpu_percent / 100
        was_s = self.pacer.epoch_s
        self.pacer.change(loop.epoch_s, loop.longest_epoch_s, share)
        if self.pacer.epoch_s != was_s:
            self._repace(self.pacer.epoch_s)
        self.brake.limits = limits_of(config.brake)
        limit_mib_s = config.migration.limit_mib_s
        if limit_mib_s != before.migration.limit_mib_s and isinstance(
            self.engine, Limitable
        ):
            self.engine.limit(limit_mib_s * (1 << 20) / (self.unit_pages * PAGE_BYTES))

    def _make_policy(self) -> Policy:
        machine, loop = self.machine, self.config.loop
        return make_live_policy(
            self.config,
            Setup(
                pages=max(machine.pages, 8),
                topology=machine.topology,
                capacity_pages=machine.usage().capacity_pages,
                epoch_ns=round(self.pacer.epoch_s * NS_PER_S),
                seed=loop.seed,
                hints=self._mechanisms,
                parallelism=machine.parallelism,
                spaces=machine.spaces,
                tenancy=None
                if self.tenants is None
                else self.tenants.tenancy(self.unit_pages),
            ),
        )

    # -- what it says ------------------------------------------------------

    @property
    def tally(self) -> Tally:
        """What moves came to so far, in pages."""
        return self._past.plus(self.engine, self.unit_pages)

    def _figures(self, step: Step) -> dict[str, Any]:
        return {
            "managed_pages": self.managed_pages,
            "planned": len(self.gate.wished),
            "tried": len(step.outcome.errno),
            "failed": int(np.count_nonzero(step.outcome.errno)),
            "fast_share": self.fast_share,
        }

    def result(self) -> dict[str, Any]:
        """Return the run so far, in raw units."""
        return result_of(self)


def _as_columns(mechanism: Mechanism | LiveMechanism) -> Mechanism:
    """Return the mechanism whose columns a source fills.

    Write tracking and page-out report bits of pages, as accessed bits do; tables of
    counters count by range, as hotness units do.
    """
    if mechanism is LiveMechanism.COUNTER_TABLE:
        return Mechanism.CHMU
    if isinstance(mechanism, LiveMechanism):
        return Mechanism.ACCESSED_BIT
    return mechanism


def _kernel_ns(batches: tuple[HintBatch, ...]) -> float:
    """Return CPU time that looking took on a kernel thread, not in this process."""
    return sum(
        batch.background_ns
        for batch in batches
        if batch.source.startswith(Mechanism.REGION.value)
        or batch.source.startswith("damon")
    )

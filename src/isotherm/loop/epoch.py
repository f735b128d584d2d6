"""run_epoch: renew, collect, drain hints, update hotness, decide, move, look on."""

from dataclasses import dataclass, field

from isotherm.hints.batch import HintBatch, HintSource
from isotherm.hotness.protocol import HotnessTracker, HotnessView
from isotherm.machine.protocol import Machine, SpacesChanged
from isotherm.migration.protocol import Engine, Resizer
from isotherm.policy.plan import Epoch, Outcome, Plan, Policy
from isotherm.policy.sizes import SizeChanges
from isotherm.policy.tenants import Labeller


@dataclass(slots=True)
class Loop:
    """The parts that one loop joins: a live host's, a simulator's or a replay's.

    Attributes:
        machine: Where pages live.
        sources: Hint drivers.
        tracker: None for a policy that reads raw hints only.
        policy: Who decides.
        engine: Who moves.
        outcome: What ``engine.submit`` said of the last plan's moves at once.
        labeller: Says whose every page is; None: there are no tenants.
        sizer: Who changes page sizes; None: they are left alone.
    """

    machine: Machine
    sources: tuple[HintSource, ...]
    tracker: HotnessTracker | None
    policy: Policy
    engine: Engine
    outcome: Outcome
    labeller: Labeller | None = None
    sizer: Resizer | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass of the loop saw, decided and did.

    Attributes:
        hints: What the sources saw.
        hotness: The tracker's view; None without a tracker.
        plan: What was decided.
        outcome: The moves that ended since the step before: those that ran beside
            the loop, then those that ``engine.submit`` carried out at once.
        change: What the spaces did; None: nothing.
        resized: Changes of page size that were made.
    """

    hints: tuple[HintBatch, ...]
    hotness: HotnessView | None
    plan: Plan
    outcome: Outcome
    change: SpacesChanged | None = None
    resized: SizeChanges = field(default_factory=SizeChanges.none)


def run_epoch(loop: Loop, index: int, dt_ns: int) -> Step:
    """Run the loop once, at the end of an epoch of ``dt_ns``."""
    machine, engine, sizer = loop.machine, loop.engine, loop.sizer
    change = machine.refresh()
    if change is not None:
        _renew(loop, change)
    ended = engine.collect()
    hints = tuple(b for source in loop.sources for b in source.drain())
    rate = machine.access_rate()
    hotness = None
    if loop.tracker is not None:
        hotness = loop.tracker.update(hints, machine.clock.now_ns(), rate)
        engine.account_epoch(hotness, dt_ns)
    plan = loop.policy.decide(
        Epoch(
            index=index,
            now_ns=machine.clock.now_ns(),
            dt_ns=dt_ns,
            topology=machine.topology,
            usage=engine.usable(machine.usage()),
            node=machine.placement(),
            latency_ns=machine.latency_ns(),
            move_cost_ns=engine.move_cost_ns(),
            hotness=hotness,
            hints=hints,
            access_rate=rate,
            parallelism=machine.parallelism,
            outcome=loop.outcome.then(ended),
            move_limit_pages=engine.move_limit_pages(),
            spaces=machine.spaces,
            tenant=None
            if loop.labeller is None
            else loop.labeller.of(machine.spaces, machine.pages),
            huge=None if sizer is None else sizer.look(),
            resized=SizeChanges.none() if sizer is None else sizer.done,
        )
    )
    resized = SizeChanges.none()
    gathered = Outcome.none()
    if sizer is not None:
        gathered = sizer.resize(plan.sizes)
        resized = sizer.done
    loop.outcome = gathered.then(engine.submit(plan.moves, dt_ns))
    for source in loop.sources:
        source.look(plan.look)
    return Step(hints, hotness, plan, ended.then(loop.outcome), change, resized)


def _renew(loop: Loop, change: SpacesChanged) -> None:
    """Tell every part that remembers pages or nodes of what has changed."""
    loop.engine.renew(change)
    if loop.tracker is not None:
        loop.tracker.renew(change)
    loop.policy.renew(change)
    loop.outcome = loop.outcome.without(change)

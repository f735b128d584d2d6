"""The loop of a tensor: counters, tracker, policy, migration engine, as for memory."""

from collections.abc import Mapping

import numpy as np

from isotherm.gpu.machine import EPOCH_NS, TensorMachine
from isotherm.gpu.mover import Mover
from isotherm.gpu.shift import ShiftDetector
from isotherm.gpu.source import KernelCounters
from isotherm.hints.batch import Mechanism
from isotherm.hotness.protocol import HotnessView
from isotherm.hotness.tracker import GammaTracker
from isotherm.loop.epoch import Loop, Step, run_epoch
from isotherm.migration.cost import CostPrior
from isotherm.migration.engine import MigrationEngine
from isotherm.policy.plan import Outcome, Setup
from isotherm.policy.registry import make_policy

#: Options of policies that fit a tensor: its rows lie beside each other by chance.
DEFAULTS: Mapping[str, Mapping[str, float]] = {"isotherm": {"neighbours": 0.0}}


class Tiering:
    """Decides what a tensor's pages are worth, one epoch after the other.

    Args:
        mover: The tensor's.
        machine: The tensor as a machine.
        policy: Name of a policy, as for ``isotherm simulate``.
        options: The policy's own parameters.
        half_life_s: Of a page's evidence, on the tensor's clock: two epochs a
            second.
        seed: For every random choice.
        most_pages: Pages with misses that are looked at per epoch; None: all.
    """

    def __init__(
        self,
        mover: Mover,
        machine: TensorMachine,
        *,
        policy: str = "isotherm",
        options: Mapping[str, float] | None = None,
        half_life_s: float = 60.0,
        seed: int = 1,
        most_pages: int | None = None,
    ) -> None:
        self._mover, self._machine = mover, machine
        self.counters = KernelCounters(
            mover, machine.clock, most_pages, link_bytes_s=machine.host_bytes_s
        )
        hints = frozenset({Mechanism.SAMPLING})
        setup = Setup(
            pages=machine.pages,
            topology=machine.topology,
            capacity_pages=machine.usage().capacity_pages,
            epoch_ns=EPOCH_NS,
            seed=seed,
            hints=hints,
            sampling_period=1,
            parallelism=machine.parallelism,
            options=dict(DEFAULTS.get(policy, {})) | dict(options or {}),
            spaces=machine.spaces,
        )
        decides = make_policy(policy, setup)
        tracker = None
        if decides.uses_tracker:
            tracker = GammaTracker(
                machine.pages,
                EPOCH_NS,
                hints,
                seed,
                half_life_s=half_life_s,
                weigh_stall=False,
            )
        engine = MigrationEngine(
            machine,
            batch_pages=1 << 30,
            prior_cost=CostPrior(page_ns=np.maximum(machine.move_cost_ns(), 1e-3)),
        )
        self.loop = Loop(
            machine, (self.counters,), tracker, decides, engine, Outcome.none()
        )
        self.epochs = 0
        self.shift = ShiftDetector()
        self.view: HotnessView | None = None

    def step(self) -> Step | None:
        """End an epoch: look at what was counted, decide, begin to move.

        Returns:
            What was seen and decided; None where nothing was read since the last.
        """
        drained = self.counters.fetch()
        rows = drained.hits + drained.misses
        if rows == 0:
            return None
        trust = self.shift.follow(drained.hits, drained.misses)
        with self._mover.lock:
            if trust is not None and isinstance(self.loop.tracker, GammaTracker):
                self.loop.tracker.doubt(trust)
            self._machine.advance(rows)
            step = run_epoch(self.loop, self.epochs, EPOCH_NS)
            self.view = step.hotness
        self.epochs += 1
        return step
